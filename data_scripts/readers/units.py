"""Units of length: coordinates in metres, or a question where their size is no scene's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError

Unit = Literal["m", "cm", "mm", "km", "ft", "us-ft", "in"]
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001, "km": 1000.0, "ft": 0.3048, "us-ft": 1200 / 3937, "in": 0.0254}
UNITS = "m, cm, mm, km, ft, us-ft or in"
TALLEST, NARROWEST = 100.0, 0.5  # metres: beyond these a scene is asked for its unit
FLATTEST = 0.25  # metres: a scene that is wider than NARROWEST and flatter than this may be in kilometres
SLENDEREST = 5.0  # times its width: what is taller may be degrees or kilometres beside metres of height
BROADEST = 200.0  # times its height: what is wider may be millimetres beside metres of height
WIDEST = 10_000.0  # metres: float32, which the networks see, still tells a millimetre


def in_metres(
    path: Path | str, points: np.ndarray, unit: Unit | None = None, stated: str | None = None
) -> np.ndarray:
    """`points` in metres. A scene wider than WIDEST is refused.

    unit: what the user says. stated: what the file says, a Unit or another word ("degree"), which counts where the user says
    nothing. Without both they are taken for metres if that is a scene's size; if not, it is asked for.
    """
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    with np.errstate(over="ignore"):
        extent = high - low
    if unit is None and stated is not None:
        if stated not in METRES:
            raise ShapeError(
                f"{path} states its unit as {stated!r}; {_project(stated)}, or give --unit {UNITS} if the file is wrong."
            )
        unit = cast("Unit", stated)
    if unit is None and (question := _ask_for_unit(low, high)):
        spans = " x ".join(f"{e:.4g}" for e in extent)
        raise ShapeError(f"{path} spans {spans}, which is no scene's size in metres; {question}")
    scale = METRES[unit or "m"]
    if not (scale * extent).max() <= WIDEST:
        spans = " x ".join(f"{scale * e:.4g}" for e in extent)
        raise ShapeError(
            f"{path} spans {spans} m, and {WIDEST:,.0f} m is the most; cut off what lies far away (a point at 0, 0 in a "
            "scan of large coordinates?), or cut the scene into pieces."
        )
    return points if scale == 1 else points * points.dtype.type(scale)


def note_odd_extent(where: Path | str, extent: np.ndarray, unit: Unit | None) -> list[str]:
    """A note where `unit` was given and the extent [3] in metres is not a scene's: perhaps this one is in another unit."""
    if unit is None or _is_plausible(extent):
        return []
    size = " x ".join(f"{e:.3g}" for e in extent)
    return [f"{where} is {size} m with --unit {unit}: is it in another unit than the others?"]


def _is_plausible(extent: np.ndarray) -> bool:
    """Whether an extent [3] in metres is plausible for a scene."""
    return bool(extent[2] <= TALLEST and extent.max() >= NARROWEST)


def _ask_for_unit(low: np.ndarray, high: np.ndarray) -> str | None:
    """What to ask of coordinates from `low` to `high` [3], which are no scene's in metres; None: they are."""
    with np.errstate(over="ignore"):
        extent = high - low
    width, height = float(extent[:2].max()), float(extent[2])
    slender = height > SLENDEREST * width or (width < NARROWEST and height >= NARROWEST)
    flat = width >= NARROWEST and (height < FLATTEST or height * BROADEST < width <= WIDEST)
    if _is_plausible(extent) and not slender and not flat:
        return None
    give = f"Give --unit {UNITS}."
    earth = max(abs(low[0]), abs(high[0])) <= 180 and max(abs(low[1]), abs(high[1])) <= 90
    away = np.abs(low[:2] / 2 + high[:2] / 2).max() > 3 * width
    if (slender or width < NARROWEST) and earth and away and width < 5:
        return f"are x and y degrees? {_project('degree')}. If they are not: {give}"
    rooms = (
        u for u in ("cm", "mm", "km") if 1.5 <= height * METRES[u] < 25 and width * METRES[u] >= NARROWEST
    )
    likely = next(rooms, None)
    if likely is None and slender:
        return f"are x and y in another unit than z (kilometres, degrees)? Bring them into one. {give}"
    if likely is None and flat and width > TALLEST:
        return f"are x and y in another unit than z (mm, cm)? Bring them into one. {give}"
    likely = likely or ("km" if flat else "mm" if height > TALLEST else "m")
    size = " x ".join(f"{e * METRES[likely]:.3g}" for e in extent)
    return f"is it {likely} ({size} m)? {give}"


def _project(stated: str) -> str:
    """What to do about coordinates that are no lengths."""
    if stated == "mixed":
        return "bring heights and plane into one"
    if stated.startswith(("deg", "grad", "rad", "lon", "lat")):
        return "Project them to metres first (to UTM, say, with PDAL, QGIS, CloudCompare or pyproj)"
    return "Convert them to metres first"
