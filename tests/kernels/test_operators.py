"""Every operator has the implementations that it registers, with its schema's arguments; no operation imports another."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch

from dropfold import kernels

FOLDER = Path(kernels.__file__).parent
# Folders with implementations; not all are public operations: noise/draw and norm/batch_norm, say, serve others.
FOLDERS = sorted(path.parent for path in FOLDER.rglob("cpu.py") if (path.parent / "operation.py").exists())
CPU_ALONE = {"evaluation"}  # on a GPU the operations' own kernels run
PUBLIC = {path for path in FOLDERS if path.name in kernels.__all__}


def package(folder: Path) -> str:
    return ".".join(["dropfold.kernels", *folder.relative_to(FOLDER).parts])


def names_of_operators() -> list[str]:
    """Operators registered under `dropfold::`, those of all operations that `dropfold.kernels` imports."""
    schemas = torch._C._jit_get_all_schemas()
    return sorted({s.name.removeprefix("dropfold::") for s in schemas if s.name.startswith("dropfold::")})


def implementations(device: str) -> dict[str, list[object]]:
    """The functions of all files of a device, by name."""
    functions: dict[str, list[object]] = {}
    for folder in FOLDERS:
        if device == "triton" and folder.name in CPU_ALONE:
            continue
        module = importlib.import_module(f"{package(folder)}.{device}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__.startswith(package(folder)):
                functions.setdefault(name, []).append(value)
    return functions


@pytest.mark.parametrize("device", ["cpu", "triton"])
def test_each_operator_has_an_implementation_that_takes_its_arguments(device):
    if device == "triton":
        pytest.importorskip("triton")
    functions, names = implementations(device), names_of_operators()
    assert len(names) >= 20
    for name in names:
        key = "CUDA" if device == "triton" else "CPU"
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"dropfold::{name}", key):
            assert device == "triton"
            continue
        (function,) = functions[name]  # one folder has it
        schema = getattr(torch.ops.dropfold, name).default._schema
        inspect.signature(function).bind(*schema.arguments)


def imported_packages(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return modules


def test_an_operation_never_imports_another():
    assert {path.name for path in PUBLIC} >= {"knn", "edge_conv", "lstm_sequence", "group_mlp_max"}
    for folder in PUBLIC:
        others = tuple(package(other) for other in PUBLIC - {folder})
        for path in folder.glob("*.py"):
            imported = imported_packages(path)
            wrong = {m for m in imported for o in others if m == o or m.startswith(f"{o}.")}
            assert not wrong, f"{path.relative_to(FOLDER)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    "name", sorted({p.name for p in PUBLIC} | {"drop_feat", "drop_point", "drop_cluster"})
)
def test_each_operation_has_a_reference_with_its_arguments(name):
    function = getattr(kernels, name)
    reference = importlib.import_module(function.__module__).reference
    assert list(inspect.signature(reference).parameters) == list(inspect.signature(function).parameters)


def test_the_import_of_kernels_imports_neither_numba_nor_triton(run_python):
    code = "import sys, dropfold.kernels; print(sorted({'numba', 'triton'} & set(sys.modules)))"
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_without_triton_the_cpu_works_and_a_launch_says_what_to_install(run_python):
    """With TRITON_INTERPRET=1 CPU tensors are launched too, as those of a GPU are."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from dropfold.kernels import drop_feat\n"
        "try: print(drop_feat(torch.rand(1, 8, 3), 0.5).shape)\n"
        "except ImportError as error: print(error)\n"
    )
    done = run_python("-c", code, TRITON_INTERPRET="0")
    assert "torch.Size([1, 8, 3])" in done.stdout, done.stderr
    done = run_python("-c", code, TRITON_INTERPRET="1")
    assert "install it with `pip install triton`" in done.stdout, done.stderr
