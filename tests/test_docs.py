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


SOURCES = [
    path
    for folder in (
        "dropfold",
        "kernels",
        "models",
        "train",
        "explain",
        "compress",
        "data_scripts",
        "benchmarks",
        "docs",
    )
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "cases" not in path.parts  # they name files of the peers' checkouts
]
FOLDERS = "kernels|models|train|explain|compress|data_scripts|benchmarks"


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_are_named_exist(page):
    text = page.read_text()
    for path in re.findall(rf"(?<![\w/.])((?:{FOLDERS}|tests|docs)/[\w/]+\.(?:py|md|csv|png|h5))", text):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path
    for name in re.findall(rf"`((?:dropfold\.)?(?:{FOLDERS})(?:\.\w+)+)", text):
        words = name.removeprefix("dropfold.").split(".")
        assert name.startswith(("dropfold.", "benchmarks.")), f"{name} is imported as dropfold.{name}"
        depth = max(k for k in range(1, len(words) + 1) if module_file(words[:k]))
        missing = words[depth : depth + 1]
        assert not missing or re.search(rf"\b{missing[0]}\b", module_file(words[:depth]).read_text()), name


def module_file(words):
    """The source file of a module of the checkout, if there is one."""
    path = ROOT.joinpath(*words)
    found = [file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()]
    return found[0] if found else None


def test_the_readme_is_for_someone_with_one_minute():
    """Under 120 lines, no sentence over 30 words, no cell of a table over 12."""
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") < 120
    prose = re.sub(r"```.*?```|^\|.*$|^#.*$|!\[.*?\)|\(.*?\)", "", text, flags=re.S | re.M)
    for sentence in re.split(r"[.:!?;]\s|\n\s*\n|\n- ", prose):
        assert len(sentence.split()) <= 30, sentence
    for row in re.findall(r"^\|(.*)\|$", text, re.M):
        for cell in row.split("|"):
            assert len(re.sub(r"`[^`]*`", "command", cell).split()) <= 12, cell
