"""The folders of `train` are rooms in an order: each imports those before it, and no modules import in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "train"
ROOMS = ["config", "data", "scoring", "storage", "tasks", "report", "engine", "compare", "predict"]


def module_name(path):
    return ".".join(["dropfold", *path.relative_to(TRAIN.parent).with_suffix("").parts])


MODULES = {module_name(path): path for path in TRAIN.rglob("*.py") if path.name != "__init__.py"}


def imports_of(path):
    """The modules of `train` that a file imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dropfold.train"):
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            found |= names & MODULES.keys()
    return found


def test_imports_go_from_room_to_room_one_way():
    def place(module):
        room = module.split(".")[2]
        return ROOMS.index(room) if room in ROOMS else len(ROOMS)

    assert {path.name for path in TRAIN.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)
    for module, path in MODULES.items():
        for other in imports_of(path):
            assert place(other) <= place(module), f"{module} imports {other}"
    assert sum(len(imports_of(path)) for path in MODULES.values()) > 100  # the walk sees them


def test_no_modules_import_in_a_circle():
    graph = {module: imports_of(path) for module, path in MODULES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("room", [".", *ROOMS])
def test_a_folder_shows_its_idea_in_few_names(room):
    entries = [path for path in (TRAIN / room).iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 15
