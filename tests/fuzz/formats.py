"""All formats that the fuzzer knows, by name."""

from tests.fuzz import data_sets, images, meshes, planted, runs, scans, tables, videos

FORMATS = {
    one.name: one
    for module in (tables, scans, meshes, videos, images, data_sets, runs)
    for one in module.FORMATS
}
PLANTED = {one.name: one for one in planted.FORMATS}
