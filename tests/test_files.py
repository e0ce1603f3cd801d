from __future__ import annotations

import os
from pathlib import Path

import pytest

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.files import check_destination, replacing, write_atomically


def test_a_text_and_bytes_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "käse")
    assert path.read_bytes() == b"k\xc3\xa4se"
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_says_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a.json") as temporary:
            temporary.unlink()
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("a.pt", "suffix '.pt'"),
        ("missing/a.json", "FileNotFoundError"),
        ("folder.json", "a folder of this name"),
        ("file/a.json", "NotADirectoryError"),
        (f"{'a' * 300}.json", "File name too long"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, got: str) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written here") as caught:
        check_destination(tmp_path / name, ".json")
    assert caught.value.where == str(tmp_path / name)
    assert got in str(caught.value)
    if name != "a.pt":
        with pytest.raises(CheckpointError, match="cannot be written here"):
            write_atomically(tmp_path / name, "")
    assert {p.name for p in tmp_path.iterdir()} == {"folder.json", "file"}


def test_the_cause_of_an_error_without_a_text_is_its_class() -> None:
    assert cause(NotImplementedError()) == "NotImplementedError"
    assert cause(ValueError("two\n lines")) == "ValueError: two lines"
