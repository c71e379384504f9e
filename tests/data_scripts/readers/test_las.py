"""LAS and LAZ as other programs write them: labels, colours, units, what is kept; counts that no file holds."""

import struct
import time

import numpy as np
import pytest

from dropfold.data_scripts.readers import las
from dropfold.data_scripts.readers.scene_file import read_scene, write_scene
from dropfold.data_scripts.work.errors import ShapeError

laspy = pytest.importorskip("laspy")

UTM = 'PROJCS["UTM 32N",GEOGCS["WGS 84",DATUM["D",SPHEROID["S",6378137,298.25]],UNIT["degree",0.0174532925199433]],'
UTM += 'PROJECTION["Transverse_Mercator"],PARAMETER["scale_factor",0.9996],UNIT["metre",1,AUTHORITY["EPSG","9001"]]]'


def points(form=7, n=400, extra=(), records=(), seed=0):
    """n points of a scanner, in a point format, with extra dimensions {name: (type, values)}."""
    random = np.random.default_rng(seed)
    header = laspy.LasHeader(point_format=form)
    header.scales, header.offsets = [0.001, 0.001, 0.01], [500_000, 5_400_000, 100]
    for one in records:
        header.vlrs.append(one)
    for name, (kind, _) in dict(extra).items():
        header.add_extra_dim(laspy.ExtraBytesParams(name, kind))
    found = laspy.LasData(header)
    for axis, low in zip("xyz", header.offsets):
        setattr(found, axis, random.uniform(low, low + 50, n))
    found.intensity = random.integers(0, 60_000, n)
    for name, (_, values) in dict(extra).items():
        found[name] = values
    return found


def write(found, path):
    found.write(path)
    return path


# --- labels and colours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("form", range(11))
def test_every_point_format_is_read(form, suffix, tmp_path):
    """Coordinates to the bit, as X * scale + offset; codes as they stand."""
    given = points(form)
    given.classification = np.arange(400) % 32
    found = read_scene(write(given, tmp_path / f"a{suffix}"))
    raw = np.stack([given.X, given.Y, given.Z], 1)
    np.testing.assert_array_equal(found.points, raw * given.header.scales + given.header.offsets)
    np.testing.assert_array_equal(found.label, np.arange(400) % 32)
    assert found.colour is None


@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize(
    "name", ["label", "Class", "scalar_Classification", "scalar_Label", "semantic_label", "gt"]
)
def test_an_extra_dimension_is_the_label(name, kind, tmp_path):
    label = np.arange(400) % 14
    given = points(3, extra={"height": ("f4", np.zeros(400)), name: (kind, label)})
    for suffix in (".las", ".laz"):
        np.testing.assert_array_equal(read_scene(write(given, tmp_path / f"a{suffix}")).label, label)


def test_an_extra_dimension_wins_over_the_classification_and_says_so(tmp_path):
    given, said = points(extra={"label": ("u1", np.zeros(400))}), []
    np.testing.assert_array_equal(
        read_scene(write(given, tmp_path / "a.las"), notes=said).label, np.zeros(400)
    )
    assert said == []
    given.classification = np.arange(400) % 7
    for name in ("a.las", "a.laz"):
        said = []
        np.testing.assert_array_equal(
            read_scene(write(given, tmp_path / name), notes=said).label, np.zeros(400)
        )
        assert said == [f"{tmp_path / name}: the labels are label; classification differs from it"]


def test_a_label_that_its_dimension_cannot_hold_is_refused(tmp_path):
    source = write(points(extra={"label": ("i1", np.ones(400))}), tmp_path / "a.las")
    scene = read_scene(source)
    with pytest.raises(
        ShapeError, match=r"a\.las has a dimension label of int8, which cannot hold label 200"
    ):
        write_scene(tmp_path / "b.las", scene.points, None, np.full(400, 200), like=source)
    assert not (tmp_path / "b.las").exists()


def test_labels_with_a_fraction_are_named(tmp_path):
    given = points(extra={"label": ("f4", np.full(400, 0.5))})
    with pytest.raises(ShapeError, match=r"the label of point 0 is 0\.5, expected a whole number"):
        read_scene(write(given, tmp_path / "a.las"))


def test_colours_of_sixteen_and_of_eight_bits(tmp_path):
    given, colour = points(2), np.random.default_rng(0).integers(0, 256, (400, 3))
    for scale in (1, 257):
        for i, name in enumerate(("red", "green", "blue")):
            given[name] = (colour[:, i] * scale).astype(np.uint16)
        np.testing.assert_array_equal(read_scene(write(given, tmp_path / "a.laz")).colour, colour)


# --- units -------------------------------------------------------------------------------------------------------


def wkt(text):
    return laspy.vlrs.known.WktCoordinateSystemVlr(text)


def keys(**values):
    """A directory of GeoTIFF keys."""
    number = {"model": 1024, "projected": 3072, "linear": 3076, "vertical": 4099, "angular": 2054}
    entries = b"".join(struct.pack("<4H", number[name], 0, 1, value) for name, value in values.items())
    return laspy.VLR("LASF_Projection", 34735, "", struct.pack("<4H", 1, 1, 0, len(values)) + entries)


FEET = 'VERT_CS["v",VERT_DATUM["d",2005],UNIT["foot",0.3048],AXIS["Up",UP]]'
WKT2 = 'PROJCRS["x",BASEGEOGCRS["g",ANGLEUNIT["degree",0.0174532925199433]],CONVERSION["c",PARAMETER["p",0,'
WKT2 += (
    'ANGLEUNIT["degree",0.0174532925199433]]],CS[Cartesian,2],AXIS["(E)",east,ORDER[1],LENGTHUNIT["{}",{}]]]'
)


@pytest.mark.parametrize(
    ("record", "unit"),
    [
        (wkt(UTM), "m"),
        (wkt(UTM.replace('"metre",1', '"US survey foot",0.304800609601219')), "us-ft"),
        (wkt(UTM.replace('"metre",1', '"foot",0.3048')), "ft"),
        (wkt(UTM.replace('"metre",1', '"kilometre",1000')), "km"),
        (wkt(UTM.replace('"metre",1', '"rod",5.0292')), None),
        (wkt('GEOGCS["WGS 84",DATUM["D"],PRIMEM["G",0],UNIT["degree",0.0174532925199433]]'), "deg"),
        (wkt(f'COMPD_CS["c",{UTM},{FEET.replace("foot", "metre").replace("0.3048", "1")}]'), "m"),
        (wkt(f'COMPD_CS["c",{UTM},{FEET}]'), "mixed"),
        (wkt(f'COMPD_CS["a ""quoted] name""",{UTM}]'), "m"),
        (wkt(WKT2.format("metre", 1)), "m"),
        (wkt(WKT2.format("US survey foot", "0.304800609601219")), "us-ft"),
        (wkt(f'BOUNDCRS[SOURCECRS[{WKT2.format("foot", 0.3048)}],TARGETCRS[{WKT2.format("metre", 1)}]]'), "ft"),
        (wkt("nonsense ]]] ["), None),
        (keys(model=1, projected=32767, linear=9001), "m"),
        (keys(model=1, projected=2229, linear=9003), "us-ft"),
        (keys(model=1, projected=32767, linear=9002), "ft"),
        (keys(model=1, projected=32632), "m"),
        (keys(model=1, projected=25832, vertical=9002), "mixed"),
        (keys(model=1, projected=2229), None),
        (keys(model=2, angular=9102), "deg"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)  # fmt: skip
def test_the_unit_of_the_coordinate_system(record, unit, tmp_path):
    path = write(points(records=[record]), tmp_path / "a.las")
    assert las.read_unit(path) == unit
    with laspy.open(path) as reader:
        assert las.unit_of(reader.header) == unit


def test_a_coordinate_system_behind_the_points(tmp_path):
    given = points()
    given.evlrs = laspy.vlrs.vlrlist.VLRList([wkt(UTM)])
    assert las.read_unit(write(given, tmp_path / "a.laz")) == "m"
    assert las.read_unit(write(points(), tmp_path / "b.las")) is None


# --- written anew ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [(".las", ".las"), (".laz", ".laz"), (".las", ".laz")])
@pytest.mark.parametrize("form", [0, 3, 6, 8])
def test_a_labelled_file_keeps_all_else(form, source, target, tmp_path):
    records = [wkt(UTM), laspy.VLR("somebody", 7, "their own", b"\1\2\3")]
    extra = {
        "height": ("f4", np.random.default_rng(1).uniform(0, 9, 400)),
        "label": ("u1", np.arange(400) % 5),
    }
    given = points(form, extra=extra, records=records)
    path = write(given, tmp_path / f"a{source}")
    scene = read_scene(path)
    for highest in (31, 255):  # the old formats hold 31, and become the new ones of the same fields
        label = (np.arange(400) * 7) % (highest + 1)
        write_scene(tmp_path / f"b{target}", scene.points, scene.colour, label, like=path)
        found = laspy.read(tmp_path / f"b{target}")
        np.testing.assert_array_equal(found.classification, label)
        np.testing.assert_array_equal(read_scene(tmp_path / f"b{target}").label, label)
        for name in ("X", "Y", "Z", "intensity", "height", "return_number", "point_source_id"):
            np.testing.assert_array_equal(found[name], given[name], name)
        assert [one.string for one in found.vlrs.get("WktCoordinateSystemVlr")] == [UTM]
        assert [one.record_data for one in found.vlrs if one.user_id == "somebody"] == [b"\1\2\3"]
        assert found.header.scales.tolist() == [0.001, 0.001, 0.01]
        old = form < 6 and highest == 31
        assert found.header.point_format.id == (form if old or form >= 6 else {0: 6, 3: 7}[form])


def test_a_file_of_other_points_is_not_written_like(tmp_path):
    path = write(points(), tmp_path / "a.las")
    scene = read_scene(path)
    with pytest.raises(ShapeError, match=r"a\.las has 400 points now, and 399 were labelled"):
        write_scene(tmp_path / "b.las", scene.points[1:], None, np.zeros(399, int), like=path)
    assert not (tmp_path / "b.las").exists()
    write_scene(tmp_path / "b.ply", scene.points, None, np.zeros(400, int), like=path)
    write_scene(tmp_path / "b.las", scene.points, None, np.zeros(400, int), like=tmp_path / "b.ply")


# --- counts and damage -------------------------------------------------------------------------------------------


def patched(path, place, form, value):
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, place, value)
    path.write_bytes(content)
    return path


def start_of_points(path):
    return struct.unpack_from("<I", path.read_bytes(), 96)[0]


@pytest.mark.parametrize(
    ("suffix", "place", "form", "value", "message"),
    [
        (".las", 100, "<I", 4_000_000_000, "4000000000 records before or after the points, and .* at the most"),
        (".laz", 100, "<I", 4_000_000_000, "4000000000 records"),
        (".las", 100, "<I", 2, r"records|record 1 of 2"),
        (".las", 96, "<I", 1 << 31, r"its points begin at byte 2147483648 of \d+"),
        (".las", 94, "<H", 100, "after a header of 100 bytes"),
        (".las", 247, "<Q", 4_000_000_000, r"ends after \d+ of 4000000000 points \(truncated"),
        (".laz", 247, "<Q", 4_000_000_000, "counts 4000000000 points, and its 1 chunks of 50000"),
        (".las", 247, "<Q", 0, "counts 0 points in its header, and has room for 400"),
        (".las", 243, "<I", 1 << 31, "2147483648 records"),
        (".las", 104, "<B", 11, "points have format 11"),
        (".las", 105, "<H", 3, "format 7 and 3 bytes"),
        (".las", 25, "<B", 9, r"its version is 1\.9"),
        (".las", 131, "<d", np.nan, "scales or shifts coordinates by what is not finite"),
        (".las", 155, "<d", np.inf, "scales or shifts coordinates"),
        (".laz", "chunks", "<I", 0x55000000, "1426063360 chunks"),
        (".laz", "table", "<q", 1 << 60, "its table of chunks is at byte"),
        (".laz", "packing", "<H", 1, r"LASzip \d.* without chunks \(compressor 1\), which is not read; write it anew"),
        (".laz", "items", "<H", 60_000, "is not a readable LA[SZ] file"),
    ],
)  # fmt: skip
def test_counts_that_the_file_cannot_hold(suffix, place, form, value, message, tmp_path):
    path = write(points(), tmp_path / f"a{suffix}")
    begin = start_of_points(path)
    if isinstance(place, str):
        content = path.read_bytes()
        table = struct.unpack_from("<q", content, begin)[0]
        packing = content.index(b"laszip encoded") + 52
        place = {"chunks": table + 4, "table": begin, "packing": packing, "items": packing + 32}[place]
    patched(path, place, form, value)
    start = time.monotonic()
    with pytest.raises(ShapeError, match=message) as caught:
        read_scene(path)
    assert str(path) in str(caught.value)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_damage_is_read_or_said(suffix, tmp_path):
    """Bits flipped anywhere, also among the packed points: the decoder's crash is the file's fault."""
    whole = write(points(records=[wkt(UTM)]), tmp_path / f"a{suffix}").read_bytes()
    random, path = np.random.default_rng(0), tmp_path / f"b{suffix}"
    for i in range(60):
        content = bytearray(whole)
        for _ in range(4):
            content[random.integers(len(whole) if i % 2 else 700)] ^= 1 << random.integers(8)
        path.write_bytes(content)
        said = ""
        try:
            found = read_scene(path)
        except ShapeError as error:
            said = str(error)
        assert str(path) in said or np.isfinite(found.points).all()
