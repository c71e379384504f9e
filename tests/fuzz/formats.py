"""All formats that the fuzzer knows, by name."""

from tests.fuzz import data_sets, meshes, runs, scans, tables, videos

FORMATS = {
    one.name: one for module in (tables, scans, meshes, videos, data_sets, runs) for one in module.FORMATS
}
