"""What the models of data/furniture.h5 are in a room: their role, S3DIS class and real size; and their surfaces, dense.

Models are listed by their number in the file: names repeat (thirty are called Chair) and do not tell a dining chair from
an office chair. Benches, garden furniture, cars, seated people and odd models have no role and are not used.

Room frame: x right, y away, z up, metres. A model stands in its own frame with its front towards -y.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from dropfold.data_scripts.schemas.shape_schema import Clouds, SchemaError


@dataclass(frozen=True)
class Role:
    """What a group of models is used as."""

    label: str
    """One of S3DIS's 13 classes."""
    axis: str
    """Which size is stated: width, depth, height, or length (the longer of width and depth)."""
    metres: float
    models: tuple[int, ...]
    sizes: dict[int, float] = field(default_factory=dict)
    """Where a model's differs from `metres`."""


ROLES = {
    "chair": Role(
        "chair",
        "height",
        0.90,
        (
            0,
            1,
            5,
            8,
            11,
            38,
            45,
            48,
            76,
            84,
            85,
            91,
            93,
            94,
            96,
            102,
            107,
            140,
            165,
            217,
            268,
            272,
            275,
            327,
            351,
            353,
        ),
        {0: 1.0, 5: 0.98, 45: 1.0},
    ),
    "office chair": Role(
        "chair", "height", 0.98, (19, 70, 88, 118, 179, 315, 342, 350), {88: 0.9, 118: 0.8, 350: 0.85}
    ),
    "armchair": Role(
        "chair",
        "height",
        0.82,
        (17, 71, 78, 83, 131, 134, 161, 251, 255, 303, 333),
        {17: 0.72, 251: 1.02, 255: 1.02, 333: 0.95},
    ),
    "bar stool": Role("chair", "height", 1.0, (36, 54, 55, 162, 334, 346), {36: 0.75}),
    "table": Role(
        "table",
        "height",
        0.74,
        (15, 122, 166, 167, 261, 273, 274, 308, 326, 329, 331, 332, 349, 354, 355, 356, 357, 358),
    ),
    "round table": Role("table", "height", 0.74, (46, 56, 99, 141, 279, 300), {56: 0.78}),
    "desk": Role("table", "height", 0.74, (26, 57, 121, 125, 129, 274, 332, 343, 345)),
    "coffee table": Role(
        "table",
        "height",
        0.42,
        (105, 227, 277, 281, 305, 308, 329, 332, 352, 355),
        {277: 0.38, 308: 0.45, 355: 0.45},
    ),
    "bedside table": Role("table", "height", 0.5, (52, 120)),
    "bar table": Role("table", "height", 1.0, (87, 335)),
    "sofa": Role(
        "sofa",
        "height",
        0.80,
        (6, 14, 18, 77, 86, 95, 130, 153, 170, 221, 266, 276, 297, 304, 336, 337, 338, 347),
        {14: 0.88, 18: 0.72, 221: 0.85, 266: 0.88, 297: 0.9, 304: 0.88, 336: 0.85, 347: 0.88, 6: 0.75},
    ),
    "corner sofa": Role("sofa", "height", 0.72, (43, 65)),
    "bed": Role(
        "clutter", "length", 2.05, (42, 47, 58, 73, 111, 127, 232, 271, 282, 296, 309, 339), {111: 1.9}
    ),
    "bookcase": Role(
        "bookcase", "height", 1.90, (61, 62, 89, 168, 184, 262, 344), {89: 1.8, 168: 1.8, 184: 2.0, 262: 1.3}
    ),
    "wardrobe": Role("bookcase", "height", 1.95, (66, 67, 98, 124, 317), {66: 2.0, 317: 2.0}),
    "low cabinet": Role(
        "bookcase",
        "height",
        0.85,
        (20, 27, 51, 97, 112, 113, 114, 181, 314),
        {51: 1.15, 97: 0.8, 181: 0.72, 314: 0.9},
    ),
    "upper cabinet": Role("bookcase", "height", 0.68, (34, 39, 41, 115, 116)),
    "floor lamp": Role("clutter", "height", 1.7, (156, 341, 348), {156: 1.35, 341: 1.8}),
    "table lamp": Role(
        "clutter",
        "height",
        0.45,
        (24, 92, 135, 316, 319, 320, 321, 322, 328, 330),
        {92: 0.3, 321: 0.4, 320: 0.4, 330: 0.5},
    ),
    "hanging lamp": Role("clutter", "height", 0.75, (10, 110, 154, 214, 234), {234: 0.1}),
    "plant": Role(
        "clutter",
        "height",
        1.2,
        (7, 12, 119, 128, 133, 213, 265, 287, 292, 294, 299, 307),
        {119: 1.7, 128: 0.7, 133: 1.0, 213: 0.9, 265: 0.8, 287: 1.5, 294: 1.7, 299: 1.8, 307: 1.9},
    ),
    "small plant": Role("clutter", "height", 0.35, (4, 69, 81, 82, 213, 229), {81: 0.22, 229: 0.3}),
    "person": Role(
        "clutter",
        "height",
        1.72,
        (175, 176, 187, 188, 198, 205, 206, 207, 208, 209, 210, 211),
        {175: 1.64, 187: 1.63, 188: 1.68, 198: 1.62, 205: 1.66, 207: 1.8, 209: 1.78},
    ),
    "vessel": Role(
        "clutter",
        "length",
        0.26,
        (
            13,
            44,
            49,
            63,
            74,
            75,
            104,
            108,
            117,
            123,
            132,
            144,
            145,
            146,
            147,
            148,
            149,
            150,
            185,
            215,
            216,
            218,
            220,
            223,
            225,
            240,
            289,
            290,
            310,
            311,
            312,
            313,
            325,
        ),
        {
            **dict.fromkeys((13, 44, 49, 63, 74, 104, 108, 132, 146, 147, 148), 0.1),
            **dict.fromkeys((123, 144, 185, 215, 216, 220, 240), 0.085),
            **dict.fromkeys((75, 218, 225, 310, 311, 312, 313, 325), 0.16),
        },
    ),
    "door": Role("door", "height", 2.05, (137, 138, 139, 183, 186, 236, 264, 298, 318)),
    "double door": Role("door", "height", 2.05, (237, 238, 239)),
    "window": Role(
        "window", "height", 1.3, (163, 172, 178, 235, 241, 242, 244, 245, 247, 248, 249, 250, 253, 254)
    ),
}
# Degrees about the upright axis that bring the front of a model to +z of its file, where the others have theirs.
TURNED = {217: -90, 275: -90, 336: -90, 342: 180, 339: -90}
COUNT = 360


@dataclass(frozen=True)
class Piece:
    """A model at its real size: width, depth, height in metres."""

    role: str
    label: str
    model: int
    size: tuple[float, float, float]


class Stock:
    """The pieces that some splits of the furniture have to offer."""

    def __init__(self, furniture: Clouds, splits: tuple[int, ...]) -> None:
        if len(furniture.points) != COUNT or furniture.normals is None:
            raise SchemaError(
                f"The furniture holds {len(furniture.points)} models "
                f"{'with' if furniture.normals is not None else 'without'} normals, expected the {COUNT} of "
                "data/furniture.h5 with normals: the roles are listed by number."
            )
        self.furniture = furniture
        self.models = {
            role: [m for m in ROLES[role].models if furniture.split[m] in splits] for role in ROLES
        }

    def pick(self, role: str, random: np.random.Generator, widest: float = np.inf) -> Piece | None:
        """A random piece of this role no wider than `widest`, its size within 4 % of the catalogue's; None without one."""
        found = [p for m in self.models[role] if (p := self.piece(role, m)).size[0] <= widest]
        if not found:
            return None
        piece = found[random.integers(len(found))]
        width, depth, height = (float(s) for s in np.array(piece.size) * random.uniform(0.96, 1.04))
        return Piece(role, piece.label, piece.model, (width, depth, height))

    def piece(self, role: str, model: int) -> Piece:
        """A model at the catalogue's size."""
        known = ROLES[role]
        size = np.ptp(upright(self.furniture.points[model], model), axis=0)
        axes = {"width": size[0], "depth": size[1], "height": size[2], "length": max(size[0], size[1])}
        size = size * known.sizes.get(model, known.metres) / axes[known.axis]
        return Piece(role, known.label, model, (float(size[0]), float(size[1]), float(size[2])))

    def surface(
        self, piece: Piece, density: float, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """`(points, normals)` of a piece in its own frame: centred in plan, on z = 0, `density` points a square metre."""
        assert self.furniture.normals is not None  # checked above
        points = upright(self.furniture.points[piece.model], piece.model).astype(np.float64)
        normals = upright(self.furniture.normals[piece.model], piece.model).astype(np.float64)
        low, high = points.min(0), points.max(0)
        scale = np.array(piece.size) / (high - low)
        points = (points - [*((low + high) / 2)[:2], low[2]]) * scale
        normals = normals / scale
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        return upsample(points, normals, density, random)


def upright(vectors: np.ndarray, model: int) -> np.ndarray:
    """From a file's axes (y up, front +z) to a room's (z up, front -y)."""
    x, y = vectors[:, 0], -vectors[:, 2]
    for _ in range(TURNED.get(model, 0) // 90 % 4):
        x, y = -y, x
    return np.stack([x, y, vectors[:, 1]], 1)


NEIGHBOURS = 32
SHEET_NEIGHBOURS = 14  # at most so many of them, the nearest on the same sheet
DRAWN = 5  # times as many points are drawn as are kept


def upsample(
    points: np.ndarray, normals: np.ndarray, density: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """About `density` points a square metre, on triangles between a point and two neighbours on the same sheet.

    Neighbours are of one sheet if their normals agree (up to sign) and the line between them lies in it; so the front
    and the back of a thin board are not mixed. Within a triangle, the point is lifted to the mean of the corners'
    tangent planes (half way: Phong tessellation), which keeps round things round. Triangles crowd around the given
    points: of several times too many, one is kept in each small cube. The area comes from the distances on
    the sheet: in a uniform sample of density s, the k-th neighbour lies at d with E[d^2] = k / (pi s).
    """
    apart, near = cKDTree(points).query(points, k=NEIGHBOURS + 1)
    apart, near = apart[:, 1:], near[:, 1:]
    towards = points[near] - points[:, None]
    agree = np.abs(np.einsum("nkc,nc->nk", normals[near], normals)) > 0.8
    spacing = np.median(apart[:, 3])
    along = np.abs(np.einsum("nkc,nc->nk", towards, normals)) < np.minimum(0.3 * apart, 0.5 * spacing)
    kin = agree & along & (apart < 4 * spacing)
    rank = np.cumsum(kin, axis=1)
    kin &= rank <= SHEET_NEIGHBOURS
    fourth = apart[kin & (rank == 4)]
    area = len(points) * np.pi * np.mean(fourth**2 if len(fourth) else apart[:, 3] ** 2) / 4
    count = max(8, round(density * area))
    base = np.resize(random.permutation(len(points)), DRAWN * count)
    keys = np.where(kin[base], random.random((len(base), NEIGHBOURS)), -1)
    rows = np.arange(len(base))
    corners = [base]
    for _ in range(2):
        best = keys.argmax(1)
        corners.append(np.where(keys[rows, best] >= 0, near[base, best], base))
        keys[rows, best] = -1
    corner = np.stack(corners, 1)
    weight = random.dirichlet(np.ones(3), len(base))
    found = np.einsum("nk,nkc->nc", weight, points[corner])
    kept = _one_a_cube(found, 0.9 / np.sqrt(density))
    kept = random.permutation(kept)[:count]
    found, weight, corner = found[kept], weight[kept], corner[kept]
    own = normals[corner]
    own = own * np.where(np.einsum("nkc,nc->nk", own, own[:, 0]) < 0, -1, 1)[..., None]
    height = np.einsum("nkc,nkc->nk", found[:, None] - points[corner], own)
    found = found - 0.5 * np.einsum("nk,nk,nkc->nc", weight, height, own)
    normal = np.einsum("nk,nkc->nc", weight, own)
    return found, normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)


def _one_a_cube(points: np.ndarray, side: float) -> np.ndarray:
    """Numbers of the first point in each cube of a grid."""
    cell = np.floor((points - points.min(0)) / side).astype(np.int64)
    span = cell.max(0) + 1
    _, first = np.unique((cell[:, 0] * span[1] + cell[:, 1]) * span[2] + cell[:, 2], return_index=True)
    return first
