"""The architecture of DESIGN, checked: who imports whom, in which order, and what is imported when."""

import ast
import importlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What a top-level folder may import. `dropfold` composes the others; nobody imports those that are not named on the right.
MAY_IMPORT = {
    "kernels": "",
    "models": "kernels",
    "data_scripts": "",
    "train": "kernels models data_scripts",
    "explain": "kernels models data_scripts train",
    "compress": "kernels models data_scripts train explain",
    "dropfold": "kernels models data_scripts train explain compress",
    "benchmarks": "kernels models data_scripts train explain compress dropfold",
    "docs": "kernels models data_scripts train explain compress dropfold benchmarks",
}
PRODUCT = [name for name in MAY_IMPORT if name not in ("benchmarks", "docs") and (ROOT / name).is_dir()]
# The subfolders of a package: each may import those before its own <, none that a comma parts from it.
ROOMS = {
    "kernels": "backend < points < noise < norm < group_mlp_max, recurrent",
    "models": "formats < layers < operations < clouds, recurrent, images < convert",
    "data_scripts": "work < schemas < readers < shapes, scenes, videos, images < interiors",
    "explain": "cut < page < maps < units < score < run",
    "compress": "plan < apply, cost < methods < run < transform",
    "train": "config < data < scoring < storage < tasks < report < engine < compare, predict",
}
MOST_ENTRIES = 15  # modules and folders of one folder: more are no longer seen at a glance
# Public names of dropfold.kernels that operations share: values, a seed, and the matrix product.
SHARED = {"BatchNorm", "Groups", "Noise", "draw_seed", "linear"}
HEAVY = (
    "triton",
    "numba",
    "wandb",
    "torch_geometric",
    "matplotlib",
    "PIL",
    "trimesh",
    "av",
    "laspy",
    "sklearn",
    "torchvision",
)


@dataclass(frozen=True)
class Module:
    """A source file and the modules of ours that it names: dropfold.kernels.noise.draw is kernels/noise/draw.py."""

    name: str
    path: Path
    imports: frozenset[str]
    """Anywhere in the file, also inside functions; not what the type checker alone sees."""
    private: frozenset[str]
    """`_names` of other modules of ours, with their modules."""

    @property
    def top(self) -> str:
        return top_of(self.name)

    @property
    def room(self) -> str:
        """The package's subfolder that it lies in; "" beside them."""
        inner = self.path.relative_to(ROOT / self.top).parts[:-1]
        return inner[0] if inner else ""


def top_of(name: str) -> str:
    """The top-level folder of a module."""
    first, *rest = name.split(".")
    return rest[0] if first == "dropfold" and rest and (ROOT / rest[0]).is_dir() else first


def name_of(path: Path) -> str:
    """How a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] in ("dropfold", "benchmarks", "docs", "tests") else ("dropfold", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules() -> dict[str, Module]:
    """All modules of the top-level folders by name."""
    paths = {name_of(path): path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))}
    return {name: read_module(name, path, set(paths)) for name, path in paths.items()}


def read_module(name: str, path: Path, known: set[str]) -> Module:
    return Module(
        name, path, *map(frozenset, names_in(path.read_text(), name, path.name == "__init__.py", known))
    )


def names_in(source: str, name: str, package: bool, known: set[str]) -> tuple[set[str], set[str]]:
    """(modules of ours that a source imports, their `_names` that it uses)."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    imports, private, bound = set(), set(), {}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.add(alias.name)
                bound[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parents = name.split(".") if package else name.split(".")[:-1]
                module = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                imports.add(inner if inner in known else module)
                bound[alias.asname or alias.name] = inner
                if is_private(alias.name):
                    private.add(inner)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            module = bound.get(ast.unparse(node.value))
            if module in known:
                private.add(f"{module}.{node.attr}")
    ours = {top_of(one) for one in known} | {"tests"}
    return {one for one in imports if top_of(one) in ours}, {one for one in private if top_of(one) in ours}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


MODULES = read_modules()


def test_imports_are_found_where_they_hide():
    """The reader of this file itself: functions, relative imports, private names through a module, types alone."""
    source = (
        "from typing import TYPE_CHECKING\nfrom dropfold.kernels import knn\nfrom . import table as t\nt._rows\n"
        "from dropfold.train.data.splits import _share\nself._own\n"
        "if TYPE_CHECKING:\n    from dropfold.train.engine import run\n"
        "def f():\n    from dropfold.data_scripts import work\n    import benchmarks.harness\n"
    )
    known = {
        "dropfold.kernels", "dropfold.train.compare.table", "dropfold.train.data.splits", "dropfold.train.engine.run",
        "dropfold.data_scripts.work", "benchmarks.harness",
    }  # fmt: skip
    imports, private = names_in(source, "dropfold.train.compare.plots", False, known)
    assert imports == known - {"dropfold.train.engine.run"}
    assert private == {"dropfold.train.compare.table._rows", "dropfold.train.data.splits._share"}


@pytest.mark.parametrize("folder", [name for name in MAY_IMPORT if (ROOT / name).is_dir()])
def test_imports_point_one_way(folder):
    allowed = {folder, *MAY_IMPORT[folder].split()}
    # `dropfold` alone is the package that all others are imported through.
    wrong = {
        f"{module.name} imports {one}"
        for module in MODULES.values()
        if module.top == folder
        for one in module.imports
        if one != "dropfold" and top_of(one) not in allowed
    }
    assert not wrong, report(wrong)


def test_no_module_is_imported_under_its_folders_name():
    """`import kernels` in a checkout would load an operation a second time."""
    wrong = {
        f"{module.name} imports {one}"
        for module in MODULES.values()
        for one in module.imports
        if one.split(".")[0] in PRODUCT and one.split(".")[0] != "dropfold"
    }
    assert not wrong, report(wrong)


@pytest.mark.parametrize("package", [name for name in PRODUCT if name != "dropfold"])
def test_the_rooms_of_a_package_stand_in_order(package):
    """A subfolder imports those before it. Files beside the subfolders (__init__, __main__) compose them."""
    rooms = [module.room for module in MODULES.values() if module.top == package and module.room]
    place = {
        room: i
        for i, line in enumerate(ROOMS.get(package, "").split(" < "))
        for room in line.split(", ")
        if room
    }
    assert set(rooms) == set(place), "ROOMS, above, says in which order the subfolders stand"
    wrong = {
        f"{module.name} imports {one}"
        for module in MODULES.values()
        if module.top == package and module.room
        for one in module.imports
        if top_of(one) == package and one in MODULES
        for other in [MODULES[one].room]
        if other != module.room and (not other or place[other] >= place[module.room])
    }
    assert not wrong, report(wrong)


def test_no_modules_import_one_another_in_a_circle():
    """Also not by an import inside a function, which hides a circle and does not open it."""
    graph = {name: module.imports & MODULES.keys() for name, module in MODULES.items()}
    reached = {name: reachable(graph, name) for name in graph}
    circles = {
        frozenset(one for one in found if name in reached[one])
        for name, found in reached.items()
        if name in found
    }
    assert not circles, report(" <-> ".join(sorted(circle)) for circle in circles)


def reachable(graph, start):
    """All that `start` leads to; itself, if it lies in a circle."""
    found, todo = set(), list(graph[start])
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            todo += graph[one]
    return found


def test_a_circle_is_seen():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert {name for name in graph if name in reachable(graph, name)} == {"b", "c"}


@pytest.mark.parametrize("package", PRODUCT)
def test_a_folder_is_seen_at_a_glance(package):
    entries = defaultdict(set)
    for module in MODULES.values():
        if module.top == package:
            for inner in (module.path, *module.path.parents):
                if inner == ROOT / package:
                    break
                if inner.name != "__init__.py":
                    entries[inner.parent].add(inner.name)
    wrong = [f"{folder}: {len(names)}" for folder, names in entries.items() if len(names) > MOST_ENTRIES]
    assert not wrong, report(wrong)


def test_private_names_stay_in_their_folder():
    """`_name` means that nothing outside the folder (and what lies below it) imports it."""
    wrong = set()
    for module in MODULES.values():
        for one in module.private:
            owner = one
            while owner not in MODULES or is_private(owner.rpartition(".")[2]):
                owner = owner.rpartition(".")[0]
            if not module.path.is_relative_to(MODULES[owner].path.parent):
                wrong.add(f"{module.name} uses {one}")
    assert not wrong, report(wrong)


def test_an_operation_never_imports_another():
    """An operation is the file, or the folder below a room, that defines a public function of dropfold.kernels."""
    kernels = importlib.import_module("dropfold.kernels")
    operations = {}
    for name in set(kernels.__all__) - SHARED:
        defined = getattr(kernels, name).__module__
        operations[".".join(defined.split(".")[:4])] = name
    wrong = {
        f"{module.name} imports {one}"
        for module in MODULES.values()
        for own in [operation_of(module.name, operations)]
        if own
        for one in module.imports
        for other in [operation_of(one, operations)]
        if other and other != own
    }
    assert len(operations) > 10
    assert not wrong, report(wrong)


def operation_of(name: str, operations) -> str | None:
    """The operation that a module is part of."""
    return next((one for one in operations if name == one or name.startswith(f"{one}.")), None)


@pytest.mark.parametrize("package", PRODUCT)
def test_optional_libraries_are_imported_where_they_are_used(package, run_python):
    name = "dropfold" if package == "dropfold" else f"dropfold.{package}"
    done = run_python("-c", f"import sys, {name}; print(sorted(set({HEAVY}) & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_kernels_import_without_triton(run_python):
    """With Triton blocked, the package imports, and a launch says what to install."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from dropfold import kernels\n"
        "try: import dropfold.kernels.backend.triton\n"
        "except ImportError as error: assert 'pip install triton' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def report(wrong) -> str:
    return "\n" + "\n".join(sorted(wrong))
