"""Every Python example in the docs runs, every command names a program with those options, every link leads somewhere."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from dropfold.__main__ import COMMANDS, DATA

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page):
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(compile(block, str(page), "exec"), scope)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_links_exist(page):
    from dropfold.train.config.recipes import RECIPES

    text = page.read_text()
    for program in re.findall(r"(?:python|torchrun[^\n]*?) -m ([\w.]+)", text):
        if program.split(".")[0] in ("dropfold", "benchmarks"):
            assert importlib.util.find_spec(program), program
    for word, rest in re.findall(r"(?<![\w/.])dropfold (\w+)[ `]?([\w-]*)", text):
        if word in COMMANDS and rest[:1].islower():
            assert rest in {"train": RECIPES, "data": DATA}.get(word, [rest]), rest
    pattern = r"^(?:(?:python|torchrun[^\n]*?) -m )?(dropfold(?:\.train)?|benchmarks\.\w+)\b([^\n]*)"
    for program, words in re.findall(pattern, shell(text), re.M):
        accepted(program, shlex.split(words, comments=True))
    for target in re.findall(r"^make ([\w-]+)", text, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def shell(text):
    """The shell examples of a page: its blocks that are marked sh, or not at all."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return "\n".join(content for kind, content in blocks if kind in ("sh", ""))


def test_shell_examples_after_python_ones_are_found():
    assert (
        shell("```python\nx = 1\n```\nprose\n```sh\nmake a\n```\n```\nmake b\n```\n") == "make a\n\nmake b\n"
    )


def accepted(program, words):
    """Ends the test if the program does not know these options."""
    import tyro

    from dropfold.train.config.recipes import RECIPES, recipe

    if program == "dropfold":
        word, *words = words
        table = COMMANDS
        if word == "data":
            (word, *words), table = words, DATA
        if word != "train" and words != ["--help"]:
            tyro.cli(importlib.import_module(table[word][0]).Options, args=words)
            return
    if program in ("dropfold", "dropfold.train"):
        recipes = {name: ("", recipe(name)) for name in RECIPES}
        if words != ["--help"]:
            tyro.extras.overridable_config_cli(recipes, args=words)
    else:
        module = importlib.import_module(program)
        if hasattr(module, "Options"):
            tyro.cli(module.Options, args=words)


def test_an_unknown_option_is_seen():
    for program, words in (
        ("dropfold", ["train", "furniture", "--epoch", "3"]),
        ("dropfold", ["evaluate", "a", "--fold", "2"]),
    ):
        with pytest.raises(SystemExit):
            accepted(program, words)


def test_every_operation_and_recipe_has_a_page():
    from dropfold import kernels
    from dropfold.train.config.recipes import RECIPES

    pages = {page.stem for page in PAGES}
    operations = [
        name for name in kernels.__all__ if name not in ("BatchNorm", "Groups", "Noise", "draw_seed")
    ]
    assert set(operations) <= pages
    recipes = "\n".join(page.read_text() for page in (ROOT / "docs/recipes").glob("*.md"))
    assert all(f"dropfold train {name}" in recipes for name in RECIPES)
