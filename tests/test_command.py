"""The command `dropfold`: help at each level, what a misspelt word is told, and how faults end it."""

import importlib

import pytest

from dropfold.__main__ import COMMANDS, DATA, main

MODULES = {module for table in (COMMANDS, DATA) for module, _ in table.values() if module}


def ended(words, capsys):
    """(exit status, stdout, stderr) of a command that ends the program."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr()
    code = stopped.value.code
    return (1, said.out, code) if isinstance(code, str) else (code, said.out, said.err)


@pytest.mark.parametrize(("words", "table"), [([], COMMANDS), (["data"], DATA)], ids=["dropfold", "data"])
@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"]])
def test_help_lists_every_word(words, table, asked, capsys):
    status, said, _ = ended([*words, *asked], capsys)
    assert status == 0
    listed = {line.split()[0] for line in said.splitlines() if line.startswith("  ")}
    assert listed == set(table)
    assert all(what in said for _, what in table.values())


def test_help_and_a_misspelt_word_import_nothing_heavy(run_python):
    """They answer in a fraction of a second, and in an environment that lacks a library."""
    code = (
        "import sys\nfrom dropfold.__main__ import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'numba', 'tyro', 'h5py'} & set(sys.modules)))"
    )
    for words in (["--help"], ["data", "--help"], ["trian"], ["data", "modelnet"]):
        assert run_python("-c", code, *words).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_word_is_a_module_with_options_and_main(module):
    found = importlib.import_module(module)
    assert callable(found.main)
    assert found.__doc__.strip()
    if module != "dropfold.train.__main__":  # its options are those of the recipe's task
        assert found.Options.__doc__


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["trian"], "'train'"),
        (["data", "model-net40"], "'modelnet40'"),
        (["data", "moving_furniture"], "'moving-furniture'"),
        (["train", "furnitur"], "'furniture'"),
        (["train", "rooms-pointnet-2"], "'rooms-pointnet2'"),
        (["data", "modelnet40", "--sorce", "x"], "--source"),
        (["train", "furniture", "--epoch", "3"], "--epochs"),
        (["evaluate", "run", "--spilt", "test"], "--split"),
        (["train", "--resume", "run"], "the recipe comes first: dropfold train RECIPE --resume run."),
        (["predict", "run"], "no file to predict; usage: dropfold predict run FILE..."),
    ],
    ids=" ".join,
)
def test_a_misspelling_is_a_usage_error_that_names_the_nearest(words, near, capsys):
    status, _, said = ended(words, capsys)
    assert status == 2
    assert near in said


def test_a_word_like_no_other_is_given_the_list_alone(capsys):
    status, _, said = ended(["xyzzy"], capsys)
    assert (status, "Did you mean" in said) == (2, False)
    assert all(word in said for word in COMMANDS)


def test_an_empty_word_is_refused(capsys):
    """As of --out "$NAME" without a NAME, which would be this folder."""
    with pytest.raises(SystemExit) as ended:
        main(["train", "furniture", "--out", ""])
    assert ended.value.code == 2
    message = "word 4 of `dropfold train furniture --out ''` is empty; is a variable of the shell unset?"
    assert message in capsys.readouterr().err


def test_options_have_help(capsys):
    status, said, _ = ended(["data", "modelnet40", "--help"], capsys)
    assert status == 0
    assert "--source" in said
    assert "The archive or its unpacked folder; None: download it." in " ".join(said.replace("│", "").split())
    status, said, _ = ended(["train", "--help"], capsys)
    assert status == 0
    assert "furniture-pointnet2" in said


def test_a_fault_of_the_input_is_a_sentence(tmp_path, capsys):
    status, _, said = ended(["data", "meshes", "--source", str(tmp_path / "no"), "--out", "x.h5"], capsys)
    assert (status, said) == (
        1,
        f"error: {tmp_path / 'no'} is not there; give a folder, a zip, tar or rar archive.",
    )


def test_every_error_of_the_data_is_a_value_error():
    from dropfold.data_scripts.work import errors

    named = [one for one in vars(errors).values() if isinstance(one, type)]
    assert len(named) == 5
    assert all(issubclass(one, ValueError) for one in named)
