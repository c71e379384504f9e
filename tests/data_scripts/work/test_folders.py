"""The walk over a folder: links, doubles, names of all kinds, and figures that add up."""

import io
import os
import sys

import pytest

from dropfold.data_scripts.work import folders
from dropfold.data_scripts.work.folders import (
    AGAIN,
    CIRCLE,
    FORBIDDEN,
    HIDDEN,
    NOWHERE,
    SAME,
    SPECIAL,
    Unread,
    account,
    note_alike,
    print_line,
    printable,
    walk,
)


def put(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"1")


def names(listing):
    return [file.name for file in listing.files]


def reasons(listing):
    return {one.name: one.reason for one in listing.unread}


def test_links_are_followed_and_end(tmp_path):
    put(tmp_path / "in", "a/1", "b/2")
    put(tmp_path / "out", "c/3", "c/deep/4", "file")
    (tmp_path / "in/c").symlink_to(tmp_path / "out/c")  # another disk, print_line
    (tmp_path / "in/a/5").symlink_to(tmp_path / "out/file")
    (tmp_path / "in/a/up").symlink_to("..")
    (tmp_path / "in/above").symlink_to(tmp_path)
    (tmp_path / "out/c/deep/back").symlink_to(tmp_path / "out/c")
    (tmp_path / "out/c/home").symlink_to(tmp_path / "in")
    (tmp_path / "in/alias").symlink_to("b")
    (tmp_path / "in/x").symlink_to("y")
    (tmp_path / "in/y").symlink_to("x")
    (tmp_path / "in/gone").symlink_to(tmp_path / "nothing")
    found = walk(tmp_path / "in")
    assert names(found) == ["a/1", "a/5", "b/2", "c/3", "c/deep/4"]
    assert found.folders == ["a", "b", "c", "c/deep"]
    assert reasons(found) == {
        "a/up": CIRCLE, "above": CIRCLE, "c/deep/back": CIRCLE, "c/home": CIRCLE, "alias": AGAIN,
        "x": NOWHERE, "y": NOWHERE, "gone": NOWHERE,
    }  # fmt: skip
    assert {one.name: one.same_as for one in found.unread}["alias"] == "b"


def test_two_folders_that_lead_to_each_other(tmp_path):
    put(tmp_path / "in", "a/1", "b/2")
    (tmp_path / "in/a/b").symlink_to(tmp_path / "in/b")
    (tmp_path / "in/b/a").symlink_to(tmp_path / "in/a")
    found = walk(tmp_path / "in")
    assert names(found) == ["a/1", "b/2"]
    assert reasons(found) == {"a/b": AGAIN, "b/a": AGAIN}


def test_a_file_reached_twice_is_found_once_by_its_own_name(tmp_path):
    put(tmp_path, "z/own", "z/other")
    (tmp_path / "a").symlink_to("z/own")  # sorts before its target
    os.link(tmp_path / "z/other", tmp_path / "z/twin")
    found = walk(tmp_path)
    assert names(found) == ["z/other", "z/own"]
    assert reasons(found) == {"a": SAME, "z/twin": SAME}
    assert names(walk(tmp_path, once=False)) == ["a", "z/other", "z/own", "z/twin"]


def test_what_is_no_file_or_may_not_be_read(tmp_path, monkeypatch):
    put(tmp_path, "a", "locked", ".hidden", ".git/x/y", "__MACOSX/a", "b/.z/file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".link").symlink_to("/")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode))
    scandir = os.scandir

    def list_but_b(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", list_but_b)
    found = walk(tmp_path)
    assert names(found) == ["a"]
    assert reasons(found) == {
        "locked": FORBIDDEN, "pipe": SPECIAL, ".hidden": HIDDEN, ".git/x/y": HIDDEN, "__MACOSX/a": HIDDEN, ".link": HIDDEN,
        "b": folders.UNLISTED,
    }  # fmt: skip
    assert account(1, found.unread)[-1] == "7 files in all: 1 read, 6 not read"  # the folder b is no file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xe9.xyz", r"caf\xe9.xyz"),
        ("café.xyz".encode(), "café.xyz"),
        (b"a\nb\x1b[31m", r"a\nb\x1b[31m"),
        ("a\u202egpj".encode(), r"a\u202egpj"),
        ("\u2028".encode(), r"\u2028"),
        (b" [/red] %s {} ", " [/red] %s {} "),
    ],
)
def test_every_name_is_text_of_one_line(name, text, tmp_path):
    put(tmp_path, name)
    (found,) = names(walk(tmp_path))
    assert printable(found) == text
    assert len(text.encode().splitlines()) == 1
    assert account(0, [Unread(found, HIDDEN)])[0] == f"1 file was not read, hidden: {text}"


def test_printing_never_raises(monkeypatch):
    said = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", said)
    print_line("caf\udce9 café \x1b[2J\nnext")
    said.flush()
    assert said.buffer.getvalue() == rb"caf\xe9 caf\xe9 \x1b[2J" b"\nnext\n"


def test_the_account_adds_up():
    assert account(5, []) == []
    assert account(5, [], failed=3) == ["8 files in all: 5 read, 3 not read"]
    assert account(5, [], left_out=1) == ["6 files in all: 5 read, 1 left out as asked"]
    unread = [Unread(f"{i}.jpg", folders.OTHER_KIND) for i in range(12)] + [
        Unread("x.MTL", folders.OTHER_KIND)
    ]
    unread += [Unread("b", AGAIN, "a"), Unread("long" * 99 + ".end", HIDDEN)]
    lines = account(5, unread, beside=["a.labels"], failed=2, left_out=1)
    assert lines[0].startswith(
        "13 files were not read, of kinds that are not read (12 .jpg, 1 .mtl): 0.jpg, x.MTL, 1.jpg, "
    )
    assert lines[0].endswith("8.jpg and 3 more")
    assert lines[1] == f"1 folder was not read, {AGAIN}: b -> a"
    assert lines[2].endswith("long.end")
    assert len(lines[2]) < 250
    assert lines[3] == "23 files in all: 5 read, 1 beside them (1 .labels), 1 left out as asked, 16 not read"


def test_names_that_differ_by_case_or_accent_alone_are_said():
    said = note_alike(["Car", "car", "bus", "cafe\u0301", "caf\u00e9", "car"], "classes")
    assert len(said) == 2
    assert "'Car' and 'car'" in said[0]
    assert r"'cafe\u0301' and 'caf\xe9'" in said[1]
