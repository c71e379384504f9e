"""What belongs into each kind of room. A room is furnished again until it has what its kind requires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dropfold.data_scripts.interiors.catalogue import Piece, Stock
from dropfold.data_scripts.interiors.furnish import Furnisher, box, cylinder
from dropfold.data_scripts.interiors.plan import FACING, Item, Plan

ATTEMPTS = 6
REQUIRED_CLASSES = {"table", "chair", "bookcase", "clutter"}
REQUIRED_ROLE = {  # without it a room is of another kind
    "office": "desk",
    "bedroom": "bed",
    "lounge": "coffee table",
    "pantry": "low cabinet",
}


def furnish(plan: Plan, stock: Stock, number: int, random: np.random.Generator) -> Plan:
    """A furnished copy of `plan`; `number` (of the room in its area) spreads beams, columns, boards and sofas evenly."""
    best, fewest = plan, 1 << 30
    hall = plan.kind == "hallway"
    wanted = {
        name
        for name, here in {
            "beam": hall or number % 2 == 1,
            "column": hall or number % 3 != 2,
            "board": hall or number % 3 != 0,
            "sofa": hall or plan.kind == "lounge" or number % 2 == 0,
        }.items()
        if here
    }
    for _ in range(ATTEMPTS):
        room = replace(plan, openings=list(plan.openings), items=list(plan.items), zones=list(plan.zones))
        put = Furnisher(room, stock, random)
        _structure(put, wanted)
        KINDS[plan.kind](put, wanted)
        _lights(put)
        _radiators(put)
        missing = len(((set() if hall else REQUIRED_CLASSES) | wanted) - {item.label for item in room.items})
        missing += plan.kind in REQUIRED_ROLE and REQUIRED_ROLE[plan.kind] not in {
            item.role for item in room.items
        }
        if missing < fewest:
            best, fewest = room, missing
        if not missing:
            break
    return best


def _structure(put: Furnisher, wanted: set[str]) -> None:
    """Columns, beams and boards: they stand before the furniture does."""
    plan, random = put.plan, put.random
    if "column" in wanted:
        for _ in range(2 if plan.kind != "hallway" else 3):
            wide = random.uniform(0.32, 0.5)
            deep = wide if plan.kind != "hallway" else 0.22
            if plan.kind in ("lounge", "storage") and put.chance(0.35):
                put.open(cylinder("column", "column", wide, plan.height), margin=0.6)
            else:
                put.against(box("column", "column", wide, deep, plan.height), out=0.006)
    if "beam" in wanted:
        count = 1 if plan.width < 5.2 else 2
        wide, high = random.uniform(0.2, 0.35), random.uniform(0.22, 0.32)
        for i in range(count * (2 if plan.kind == "hallway" else 1)):
            parts = count * (2 if plan.kind == "hallway" else 1)
            beam = box("beam", "beam", wide, plan.depth - 0.012, high)
            for _ in range(8):
                if put.hang(beam, plan.width * (i + random.uniform(0.35, 0.65)) / parts, plan.depth / 2):
                    break
    if "board" in wanted:
        for _ in range(1 if plan.kind != "hallway" else 2):
            wide, high = (
                random.uniform(1.4, 2.4) if plan.kind != "hallway" else random.uniform(0.9, 1.6),
                random.uniform(0.95, 1.2),
            )
            board = put.against(box("board", "board", wide, 0.035, high), out=0.006, z=0.9)
            if board:
                wall = FACING.index(board.turn)
                along = board.x if wall in (0, 2) else board.y
                plan.keep_free(wall, along, wide, 0.6, 0.9, 0.9 + high)


def _lights(put: Furnisher) -> None:
    """Light panels in rows under the ceiling; homes have a lamp."""
    plan = put.plan
    if plan.kind in ("bedroom", "lounge") and put.hang("hanging lamp", plan.width / 2, plan.depth / 2):
        return
    columns, rows = max(1, round(plan.width / 2.6)), max(1, round(plan.depth / 2.6))
    size = (1.2, 0.3) if plan.area % 2 else (0.6, 0.6)
    for i in range(columns):
        for j in range(rows):
            at = plan.width * (i + 0.5) / columns, plan.depth * (j + 0.5) / rows
            put.hang(box("light", "clutter", *size, 0.05), *at)


def _radiators(put: Furnisher) -> None:
    """Under the windows that nothing stands before."""
    for opening in put.plan.openings:
        if opening.role == "window" and opening.bottom > 0.7:
            along = (opening.start + opening.end) / 2
            x, y = put.plan.at_wall(opening.wall, along, 0.08)
            size = (0.8 * (opening.end - opening.start), 0.09, 0.5)
            put.plan.put(Item("radiator", "clutter", -1, size, x, y, 0.12, FACING[opening.wall]))


def _work_place(put: Furnisher) -> Item | None:
    """A desk at a wall, a chair before it, a screen and small things on it."""
    for _ in range(6):
        desk = put.against("desk", gap=0.08)
        if desk is None:
            return None
        chair = put.before(
            desk, put.piece("office chair" if put.chance(0.75) else "chair"), 0.06, wobble=0.25
        )
        if chair is None:
            put.without(desk)
            continue
        screen = box("screen", "clutter", put.random.uniform(0.45, 0.6), 0.05, 0.34)
        foot = put.on(
            desk, box("foot", "clutter", 0.2, 0.16, 0.1), back=True, side=put.random.uniform(-0.3, 0.3)
        )
        if foot:
            above = Item("screen", "clutter", -1, screen.size, foot.x, foot.y, foot.top, desk.turn)
            if not put.plan.put(above, 0.0):  # before a window, say
                put.without(foot)
        if put.chance(0.5):
            put.on(desk, "table lamp", back=True, side=put.random.choice([-1.0, 1.0]))
        for _ in range(put.random.integers(1, 4)):
            put.on(desk, _papers(put) if put.chance(0.6) else "vessel")
        if put.chance(0.5):
            put.open(cylinder("bin", "clutter", 0.26, 0.32), gap=0.02)
        return desk
    return None


def _case(put: Furnisher) -> str:
    """A bookcase, seldom with doors."""
    return "bookcase" if put.chance(0.7) else "wardrobe"


def _papers(put: Furnisher) -> Piece:
    """A pile of books or paper."""
    return box("books", "clutter", put.random.uniform(0.2, 0.3), 0.2, put.random.uniform(0.04, 0.2))


def _extras(put: Furnisher, plants: int = 1, people: float = 0.4) -> None:
    """Plants, a floor lamp, somebody."""
    for _ in range(plants):
        piece = put.piece("plant", 0.9)
        put.against(piece, out=0.1)
    if put.chance(0.5):
        put.against("floor lamp", out=0.1)
    if put.chance(people):
        put.open("person")


def office(put: Furnisher, wanted: set[str]) -> None:
    """Work places, bookcases; a sofa for guests."""
    if "sofa" in wanted:
        put.against("sofa", widest=2.1)
    for _ in range(3):
        desk = _work_place(put)
        if desk and put.chance(0.4):  # for a visitor, at the side
            put.around(desk, put.piece("chair"), 0.3)
    for _ in range(2):
        put.against(_case(put))
    cabinet = put.against("low cabinet")
    put.on(cabinet, "small plant")
    _extras(put)


def conference(put: Furnisher, wanted: set[str]) -> None:
    """One long table, or two end to end, with chairs all round."""
    put.table_with_chairs(
        "table", "office chair" if put.chance(0.4) else "chair", 5, 0.95, pair=put.plan.width > 5.5
    )
    for table in [item for item in put.plan.items if item.label == "table"]:
        for _ in range(3):
            put.on(table, "vessel" if put.chance(0.6) else _papers(put))
    if "sofa" in wanted:
        put.against("sofa", widest=2.1)
    put.against(_case(put))
    cabinet = put.against("low cabinet")
    put.on(cabinet, "vessel")
    put.on(cabinet, "small plant")
    _extras(put, people=0.7)


def lounge(put: Furnisher, wanted: set[str]) -> None:
    """A sofa with a low table before it and armchairs that face it, a television, a small table with chairs."""
    for _ in range(8):
        before = list(put.plan.items)
        sofa = put.against("corner sofa" if put.chance(0.2) else "sofa", gap=0.1)
        if sofa is None:
            break
        low = put.before(sofa, "coffee table", 0.45 if sofa.role == "sofa" else 0.2, facing=False)
        if low:
            put.on(low, "vessel")
            put.on(low, _papers(put))
            chair = put.piece("armchair")
            for side in (-0.55, 0.55) if put.chance(0.5) else (0.0,):
                put.before(low, chair, 0.4, side=side, wobble=0.25)
            if put.chance(0.6):
                put.beside(sofa, "floor lamp", 1 if put.chance(0.5) else -1)
            opposite = (FACING.index(sofa.turn) + 2) % 4
            stand = put.against("low cabinet", walls=(opposite,))
            if stand:
                put.on(stand, box("screen", "clutter", min(1.1, stand.size[0] - 0.1), 0.06, 0.6), back=True)
            break
        put.plan.items[:] = before
    put.table_with_chairs("round table" if put.chance(0.6) else "table", "chair", 2, 0.9)
    for table in [item for item in put.plan.items if item.role in ("round table", "table")]:
        put.on(table, "vessel")
    for _ in range(1 + put.chance(0.5)):
        put.against("bookcase")
    _extras(put, plants=2, people=0.5)


def bedroom(put: Furnisher, wanted: set[str]) -> None:
    """A bed with its head to a wall, bedside tables with lamps, a wardrobe, a desk."""
    for _ in range(10):
        bed = put.against("bed", gap=0.3)
        if bed is None:
            break
        side = put.piece("bedside table")
        tables = [put.beside(bed, side, s) for s in (-1, 1)]
        for table in tables:
            put.on(table, "table lamp")
        if any(tables):
            break
        put.without(bed)
    put.against("wardrobe")
    _work_place(put)
    if "sofa" in wanted:
        put.against("sofa", widest=2.0)
    elif put.chance(0.6):
        put.against("armchair", out=0.15)
    put.on(put.against("low cabinet"), "small plant")
    put.against("bookcase", widest=1.3)
    _extras(put, people=0.3)


def pantry(put: Furnisher, wanted: set[str]) -> None:
    """A run of cabinets with others above, a table to eat at."""
    low, high = put.piece("low cabinet", 1.0), put.piece("upper cabinet")
    first = put.against(low, walls=(1, 3), out=0.01)
    run = [first] if first else []
    for side in (1, -1):
        last = first
        for _ in range(3):
            last = put.beside(last, low, side, 0.005) if last and len(run) < 4 else None
            if last:
                run.append(last)
    for item in run:
        if high:
            wall = FACING.index(item.turn)
            along = item.x if wall in (0, 2) else item.y
            x, y = put.plan.at_wall(wall, along, 0.01 + high.size[1] / 2)
            put.plan.put(Item(high.role, high.label, high.model, high.size, x, y, 1.45, item.turn), 0.0)
        for _ in range(2):
            put.on(item, "vessel")
    if "sofa" in wanted:
        put.against("sofa", widest=1.9)
    put.table_with_chairs("table" if put.chance(0.7) else "round table", "chair", 3, 0.95)
    for table in [item for item in put.plan.items if item.label == "table"]:
        for _ in range(5):
            put.on(table, "vessel")
    stools = put.piece("bar stool")
    bar = put.open("bar table", margin=0.5) if put.chance(0.7) else None
    if bar:
        put.around(bar, stools)
    elif stools:
        put.against(stools, out=0.1)
        put.against(stools, out=0.1)
    put.against("bookcase", widest=1.3)
    _extras(put, people=0.5)


def storage(put: Furnisher, wanted: set[str]) -> None:
    """Bookcases side by side along the walls, boxes, a table to read at."""
    for _ in range(3):
        case = put.against("bookcase", widest=1.7)
        for side in (1, -1):
            last = case
            for _ in range(2):
                last = put.beside(last, put.piece("bookcase", 1.7), side, 0.02) if last else None
    if "sofa" in wanted:
        put.against("sofa", widest=2.1)
    put.table_with_chairs("table", "chair", 3, 0.85)
    for table in [item for item in put.plan.items if item.label == "table"]:
        for _ in range(4):
            put.on(table, _papers(put) if put.chance(0.7) else "vessel")
    for _ in range(4):
        width, depth, height = put.random.uniform(0.3, 0.55, 3)
        carton = put.against(box("carton", "clutter", width, depth, height), out=0.05)
        if carton and put.chance(0.5):
            put.on(carton, box("carton", "clutter", 0.75 * width, 0.75 * depth, 0.75 * height))
    _extras(put, people=0.4)


def hallway(put: Furnisher, wanted: set[str]) -> None:
    """Little that stands in the way: a sofa, a cabinet, plants, people."""
    put.against("sofa", walls=(0, 2), widest=2.1)
    put.on(put.against("low cabinet", walls=(0, 2)), "small plant")
    put.against("chair", walls=(0, 2), out=0.06)
    put.against("bookcase", walls=(0, 2), widest=1.4)
    _extras(put, plants=2, people=1.0)
    if put.chance(0.5):
        put.open("person")


KINDS: dict[str, Callable[[Furnisher, set[str]], None]] = {
    "office": office,
    "conferenceRoom": conference,
    "lounge": lounge,
    "bedroom": bedroom,
    "pantry": pantry,
    "storage": storage,
    "hallway": hallway,
}
