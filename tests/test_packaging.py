"""What is installed: one import name beside others' `kernels`, `models` and `train`; the report page and the data."""

import json
import os
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
FOLDERS = [folder for folder in PACKAGES.values() if folder not in ("dropfold", "data")]
SCRIPTS = ("tests", "benchmarks", "docs")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, inside a git repository that is not ours: builds leave files behind, and ask git."""
    outer = tmp_path_factory.mktemp("repository")
    user = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), (*user, "commit", "-q", "--allow-empty", "-m", "not of this project")):
        subprocess.run(["git", *words], cwd=outer, check=True)
    copy = outer / "checkout"
    for name in ("dropfold", "data", *FOLDERS, *SCRIPTS):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(checkout, kind):
    """The path of a built wheel; kind: wheel or editable, as pip calls them."""
    pytest.importorskip("setuptools", "77", reason="the build needs setuptools 77 or newer")
    out = checkout / f"built {kind}"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), out], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(checkout):
    return build(checkout, "wheel")


@pytest.fixture(scope="module")
def environment(checkout, request):
    """`python` of an environment in which the project is installed from a wheel, editable, or lies on PYTHONPATH.

    Its libraries are those of this one, and there is a stub of the package called `kernels` (Hugging Face's).
    """
    folder = checkout.parent / f"environment {request.param}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    # The project's own editable install stays out: .pth files in a folder that a .pth file names are not read.
    libraries = [
        path for path in (*site.getsitepackages(), site.getusersitepackages()) if Path(path).is_dir()
    ]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    (packages / "kernels").mkdir()
    (packages / "kernels/__init__.py").write_text("OWNER = 'Hugging Face'\n")
    paths = {"PYTHONPATH": str(checkout)} if request.param == "checkout" else {}
    if not paths:
        built = (
            build(checkout, "editable") if request.param == "editable" else request.getfixturevalue("wheel")
        )
        with zipfile.ZipFile(built) as file:
            file.extractall(packages)

    def python(*words, cwd):
        return subprocess.run(
            [folder / "bin/python", *words],
            cwd=cwd,
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **paths},
            capture_output=True,
            text=True,
        )

    python.kind = request.param
    return python


everywhere = pytest.mark.parametrize("environment", ["wheel", "editable", "checkout"], indirect=True)
installed = pytest.mark.parametrize("environment", ["wheel"], indirect=True)


def test_the_wheel_holds_the_packages_the_page_and_the_data(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    expected = {f"dropfold/{path.name}" for path in (ROOT / "dropfold").glob("*.py")}
    for folder in FOLDERS:
        expected |= {
            f"dropfold/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")
        }
    for folder, kind in (("train", "html"), ("train", "css"), ("train", "js"), ("explain", "html")):
        expected |= {
            f"dropfold/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob(f"*.{kind}")
        }
    expected |= {
        f"dropfold/data/{name}" for name in ("furniture.h5", "components.h5", "fashion.h5", "CREDITS.md")
    }
    assert held == expected
    assert any(name.endswith(".html") for name in held)


IMPORT_ALL = f"""
import importlib, pkgutil, sys
import dropfold
for folder in {FOLDERS}:
    package = importlib.import_module("dropfold." + folder)
    for found in pkgutil.walk_packages(package.__path__, "dropfold." + folder + "."):
        importlib.import_module(found.name)
importlib.import_module("dropfold.__main__")
from dropfold.train.storage.provenance import commit
names = {{}}
for name, module in sys.modules.items():
    names.setdefault(getattr(module, "__file__", None), []).append(name)
ours = [found for found in names.values() if any(name.split(".")[0] == "dropfold" for name in found)]
print(len(ours), [found for found in ours if len(found) > 1], commit(), sep="; ")
import kernels
print(getattr(kernels, "OWNER", "this project's"))
"""


@everywhere
def test_every_module_has_one_name_beside_another_kernels(environment, tmp_path):
    """Imported under two names, an operation would be registered twice.

    Environment and sources lie inside another project's repository: its commit is not this code's.
    """
    done = environment("-c", IMPORT_ALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = len([path for folder in ("dropfold", *FOLDERS) for path in (ROOT / folder).rglob("*.py")])
    version = "0.1.0" if environment.kind == "wheel" else "unknown"
    # Only a checkout that lies on PYTHONPATH as a whole shows its folders under their own names, too.
    owner = "this project's" if environment.kind == "checkout" else "Hugging Face"
    assert done.stdout.splitlines() == [f"{modules}; []; {version}", owner]


@everywhere
def test_the_users_own_folders_stay_theirs(environment, checkout, tmp_path):
    """A script beside its own `models`, `kernels` and `train` imports those, and ours as `dropfold.models`."""
    (tmp_path / "models").mkdir()
    for name in ("models/__init__.py", "kernels.py", "train.py"):
        (tmp_path / name).write_text("OWNER = 'user'\n")
    (tmp_path / "script.py").write_text(
        "from dropfold.models import DropCluster\nimport dropfold, kernels, models, train\n"
        "print(kernels.OWNER, models.OWNER, train.OWNER, DropCluster.__module__, dropfold.__file__)"
    )
    done = environment("script.py", cwd=tmp_path)
    *found, file = done.stdout.split(maxsplit=4)
    assert found == ["user", "user", "user", "dropfold.models.layers.noise"], done.stderr[-2000:]
    assert Path(file.strip()).is_relative_to(checkout.parent)


def test_train_in_a_checkout_hands_over(run_python):
    """`python -m train` is `dropfold train`; of the folder's own name nothing but its two outermost files is loaded."""
    code = (
        "import runpy, sys\nsys.argv = ['train', '--help']\n"
        "try: runpy.run_module('train', run_name='__main__', alter_sys=True)\nexcept SystemExit as end: print(end.code)\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in "
        f"{FOLDERS}))\n"
    )
    done = run_python("-c", code)
    assert done.stdout.splitlines()[-2:] == ["0", "['train']"], done.stderr[-2000:]


@pytest.mark.slow
@installed
def test_the_wheel_trains_in_an_empty_folder(environment, tmp_path):
    """With the data of the wheel, to the report."""
    words = "train furniture --epochs 1 --points 64 --k 4 --emb-dims 32 --wandb disabled --out run"
    done = environment("-m", "dropfold", *words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["commit"] == "0.1.0"
    assert "</html>" in (tmp_path / "run/report.html").read_text()[-100:]
