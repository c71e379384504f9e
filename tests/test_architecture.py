"""The architecture of DESIGN, checked: who imports whom, and what is imported when."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "kernels": set(),
    "models": {"kernels"},
    "data_scripts": set(),
    "train": {"kernels", "models", "data_scripts"},
    "benchmarks": {"kernels", "models", "data_scripts", "train"},
}


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        ours = {m.split(".")[0] for m in imported_modules(path)} & {*MAY_IMPORT, "tests"}
        forbidden = ours - MAY_IMPORT[package] - {package}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"


def test_an_operation_never_imports_another():
    operations = {p.stem for p in (ROOT / "kernels").glob("*.py") if not p.stem.startswith("_")}
    for operation in operations:
        imported = imported_modules(ROOT / "kernels" / f"{operation}.py")
        others = {f"kernels.{o}" for o in operations - {operation}} & imported
        assert not others, f"kernels/{operation}.py imports {sorted(others)}"


@pytest.mark.parametrize("package", ["kernels", "models", "train"])
def test_optional_libraries_are_imported_where_they_are_used(package, run_python):
    heavy = ("triton", "numba", "wandb", "torch_geometric", "matplotlib", "trimesh")
    done = run_python("-c", f"import sys, {package}; print(sorted(set({heavy}) & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_kernels_import_without_triton(run_python):
    """With Triton blocked, the package imports, and a launch says what to install."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from dropfold import kernels\n"
        "try: import dropfold.kernels.points.knn.triton\n"
        "except ImportError as error: assert 'pip install triton' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
