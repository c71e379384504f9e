"""Pictures: PNG and JPEG as they are, 8 bits a channel; what would have to be guessed is refused.

Turned and mirrored as the file states (EXIF). Palettes and 1 bit are looked up, which loses nothing; 16 bits, other colour
modes, transparency and several pictures in a file are not read, as each could become several things.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.work.errors import PictureError, is_of_broken_data

SUFFIXES = (".png", ".jpg", ".jpeg")
GRAY, COLOUR = ("1", "L"), ("P", "RGB")
WITH_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
PNG_HEAD, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # the byte that states the bits of a channel


def read_picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 1] of a gray picture, [H, W, 3] of one in colour; `size`, (width, height), scales it with averaging.

    Raises:
        PictureError: names the file, what it is, and what was expected.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with path.open("rb") as raw:
            head = raw.read(PNG_DEPTH + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                _refuse(path, file, head)
                picture = _without_alpha(path, ImageOps.exif_transpose(file))
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PictureError(f"{path} is no PNG or JPEG; expected a picture in one of them.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError(
            f"{path} states more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller."
        ) from None
    except Exception as error:  # the library raises what it likes on broken data
        if not is_of_broken_data(error):
            reason = getattr(error, "strerror", None) or error
            raise PictureError(f"{path} cannot be read ({reason}).") from None
        raise PictureError(f"{path} is broken or cut off ({error}); save or fetch it again.") from None
    if size is not None:
        picture = picture.resize(
            size, Image.Resampling.BILINEAR
        )  # of all pixels under each, where it shrinks
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _refuse(path: Path, file: Any, head: bytes) -> None:
    """Refuse a picture that is not one of 8 bits in gray or colour."""
    if (count := getattr(file, "n_frames", 1)) > 1:
        raise PictureError(
            f"{path} holds {count} pictures, as an animation does; expected one: save it alone."
        )
    bits = head[PNG_DEPTH] if head.startswith(PNG_HEAD) and len(head) > PNG_DEPTH else 8
    if bits > 8 or file.mode.startswith("I"):
        raise PictureError(
            f"{path} has {max(bits, 16)} bits a channel, expected 8: save it so; what is white differs."
        )
    if file.mode not in (*GRAY, *COLOUR, *WITH_ALPHA):
        raise PictureError(f"{path} has the colour mode {file.mode}, expected gray or RGB: save it so.")


def _without_alpha(path: Path, picture: Any) -> Any:
    """In gray or RGB; refused, if some pixels let what is behind them through."""
    if picture.mode in WITH_ALPHA or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if (clear := int((alpha < 255).sum())) > 0:
            raise PictureError(
                f"{path} has {clear:,} transparent pixels, which have no colour of their own; lay it on a background."
            )
    gray = picture.mode in (*GRAY, "LA", "La")
    return picture.convert("L" if gray else "RGB")


def is_gray(pixels: np.ndarray) -> bool:
    """Whether a picture [H, W, C] has one channel, or three equal ones."""
    return pixels.shape[2] == 1 or bool((pixels == pixels[..., :1]).all())


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray | None:
    """A picture [H, W, C] with 1 or 3 channels, where that loses nothing; None for colour that is to be gray."""
    if channels == 1:
        return pixels[..., :1] if is_gray(pixels) else None
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
