"""Where an export is written: beside its folder, or in it; and what is left of one that was killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import starquant_fx
from starquant_fx import runtime
from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.export.api import export_onnx
from starquant_fx.export.folder import check_folder, replacing_folder
from starquant_fx.folders.workplace import CONTENT, MARKER, MOVING, NEW, OLD, workplace
from tests.export.small import compiled

NAMES = ["model.onnx", "starquant.json"]
EXPORT = '{"format": "starquant-onnx"}'


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fill(folder: Path, content: str = "new") -> None:
    (folder / "model.onnx").write_text(content)
    (folder / "starquant.json").write_text(EXPORT)


def write(path: Path, more: str = "", comes: str = "") -> None:
    """Writes an export with one more file, while another file comes to its place."""
    with replacing_folder(path) as folder:
        fill(folder)
        if more:
            (folder / more).write_text("{}")
        if comes:
            path.mkdir(exist_ok=True)
            (path / comes).write_text("mine")


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that cannot be renamed or replaced, in one that cannot be written."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mkdir, rename = Path.mkdir, Path.rename

    def no_mkdir(self: Path, *arguments: Any, **options: Any) -> None:
        if self.parent == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        mkdir(self, *arguments, **options)

    def no_rename(self: Path, target: Path) -> Path:
        if folder in (self, target):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(self, target)

    monkeypatch.setattr(Path, "mkdir", no_mkdir)
    monkeypatch.setattr(Path, "rename", no_rename)
    return folder


@pytest.mark.usefixtures("built_once")
def test_an_empty_folder_is_written_without_touching_its_place(mounted: Path) -> None:
    before = mounted.stat().st_ino
    export_onnx(compiled("odd"), mounted, flavour="integer", verify=False)
    assert names(mounted) == NAMES
    assert mounted.stat().st_ino == before
    assert runtime.load(mounted).metadata.flavour == "integer"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", range(3))
def test_an_empty_folder_is_empty_again_after_a_failure(
    mounted: Path, at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename
    moved: list[str] = []

    def fails(self: Path, target: Path) -> Path:
        if len(moved) == at:
            raise error
        moved.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        write(check_folder(mounted, force=False), "tokenizer.json")
    assert names(mounted) == []
    assert "starquant.json" not in moved, "it is the last"


def test_what_came_meanwhile_is_kept(tmp_path: Path) -> None:
    for place in ("empty", "new", "old"):
        path = tmp_path / place
        if place != "new":
            path.mkdir()
        if place == "old":
            fill(path)
        with pytest.raises(CheckpointError):
            write(path, comes="notes.txt")
        assert (path / "notes.txt").read_text() == "mine"
        assert names(path) == (
            [*NAMES[:1], "notes.txt", *NAMES[1:]] if place == "old" else ["notes.txt"]
        )
    assert names(tmp_path) == ["empty", "new", "old"]


def remains(folder: Path, name: str = "a", content: str = CONTENT) -> Path:
    place = folder / f".{name}.0123abcd"
    (place / NEW).mkdir(parents=True)
    fill(place / NEW, "half")
    (place / MARKER).write_text(content)
    return place


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="nobody knows who is alive")


@needs_locks
@pytest.mark.parametrize("inside", [False, True])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, inside: bool) -> None:
    """A process that is killed while it writes; nothing can be done at its end."""
    place = tmp_path / "a"
    if inside:
        place.mkdir()
    code = f"""
        import pathlib, time
        from starquant_fx.export.folder import replacing_folder
        with replacing_folder(pathlib.Path({str(place)!r})) as folder:
            (folder / "model.onnx").write_text("half")
            print("written", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        (left,) = (p for p in (place if inside else tmp_path).iterdir() if p.name.startswith(".a."))
        if inside:
            with pytest.raises(CheckpointError, match=r"a folder with \.a\."):
                check_folder(place, force=True)
        else:
            check_folder(place, force=True)
        assert (left / NEW / "model.onnx").exists(), "it lives"
        process.send_signal(signal.SIGKILL)
    check_folder(place, force=False)
    assert not left.exists()
    assert names(tmp_path) == (["a"] if inside else [])


@needs_locks
def test_nothing_else_is_removed(tmp_path: Path) -> None:
    kept = [
        remains(tmp_path, "b"),
        remains(tmp_path, "a", content="mine"),
        remains(tmp_path / "deeper"),
    ]
    other = tmp_path / ".a.89abcdef"
    fill_other = remains(tmp_path / "x")
    (fill_other / "notes.txt").write_text("mine")
    fill_other.rename(other)
    kept.append(other)
    (tmp_path / ".a.0000000g").mkdir()
    (tmp_path / ".a.00000000").symlink_to(remains(tmp_path / "y"))
    (tmp_path / ".a.11111111").write_text("mine")
    unmarked = tmp_path / ".a.22222222"
    unmarked.mkdir()
    before = sorted(tmp_path.rglob("*"))
    check_folder(tmp_path / "a", force=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(place.exists() for place in kept)


@needs_locks
def test_an_export_that_was_just_to_be_replaced_comes_back(tmp_path: Path) -> None:
    place = remains(tmp_path)
    (place / OLD).mkdir()
    fill(place / OLD, "old")
    with pytest.raises(CheckpointError, match="an export"):
        check_folder(tmp_path / "a", force=False)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "model.onnx").read_text() == "old"


@needs_locks
def test_one_that_was_replaced_does_not(tmp_path: Path) -> None:
    place = remains(tmp_path)
    (place / NEW).rename(tmp_path / "a")
    (place / OLD).mkdir()
    fill(place / OLD, "old")
    check_folder(tmp_path / "a", force=True)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "model.onnx").read_text() == "half"


def test_a_workplace_is_removed(tmp_path: Path) -> None:
    with workplace(tmp_path, "a") as place:
        assert names(place) == [NEW, MARKER]
    assert names(tmp_path) == []


KILLED = """
import json, os, pathlib, signal, sys
from starquant_fx.export.folder import check_folder, replacing_folder

base = pathlib.Path(sys.argv[1])
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "os.scandir", "os.listdir"}

def child(path, left):
    def hook(event, arguments):
        nonlocal left
        if event in EVENTS and str(base) in str(arguments[0]):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
    sys.addaudithook(hook)
    with replacing_folder(check_folder(path, False)) as folder:
        for name in ("model.onnx", "starquant.json", "tokenizer.json"):
            (folder / name).write_text('{"format": "starquant-onnx"}')

status, step = -1, 0
while status:
    path = base / str(step) / "a"
    path.mkdir(parents=True)
    process = os.fork()
    if not process:
        child(path, step)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    step += 1
"""


@needs_locks
def test_killed_at_any_step_of_writing_into_an_empty_folder(tmp_path: Path) -> None:
    """The next command finds it empty or complete, and nothing else."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True)
    steps = sorted(tmp_path.iterdir(), key=lambda step: int(step.name))
    found = []
    for step in steps:
        place = step / "a"
        for hidden in place.glob(".a.*"):
            os.utime(hidden, (0, 0))  # an hour later
        check_folder(place, force=True)
        found.append(names(place))
    complete = [*NAMES, "tokenizer.json"]
    done = found.index(complete)
    assert found == [[]] * done + [complete] * (len(found) - done)
    assert len(found) > 20
    assert done < len(found) - 4, "some are completed"


@needs_locks
def test_what_came_before_files_could_go_on_moving_is_kept(tmp_path: Path) -> None:
    place = remains(tmp_path / "a")
    (place / NEW).rename(place / MOVING)
    (tmp_path / "a" / "model.onnx").write_text("mine")
    with pytest.raises(CheckpointError, match=r"a folder with \.a\.0123abcd, model\.onnx"):
        check_folder(tmp_path / "a", force=True)
    assert (tmp_path / "a" / "model.onnx").read_text() == "mine"
    assert (place / MOVING / "model.onnx").read_text() == "half"


@needs_locks
def test_files_go_on_moving_in_a_folder_that_was_renamed(tmp_path: Path) -> None:
    place = remains(tmp_path / "a")
    (place / NEW).rename(place / MOVING)
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(CheckpointError, match="an export"):
        check_folder(tmp_path / "b", force=False)
    assert names(tmp_path / "b") == NAMES


@pytest.mark.parametrize("error", [None, OSError(errno.EIO, "broken")])
def test_what_comes_as_files_move_is_kept(
    error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a move fails and what was moved is removed."""
    path, rename = tmp_path / "a", Path.rename
    path.mkdir()

    def come(self: Path, target: Path) -> Path:
        if target.name == MOVING:
            (path / "model.onnx").write_text("mine")
        elif error is not None:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", come)
    with pytest.raises(CheckpointError):
        write(path)
    assert names(path) == ["model.onnx"]
    assert (path / "model.onnx").read_text() == "mine"


@needs_locks
@pytest.mark.parametrize("forged", ["a link", "a link for the marker", "a pipe"])
def test_nothing_is_moved_that_is_not_ours(forged: str, tmp_path: Path) -> None:
    """A folder from elsewhere with remains in it that lead out of it, or that nobody ever writes to."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("mine")
    place = remains(tmp_path / "a")
    if forged == "a link":
        (place / MOVING).symlink_to(secret)
    elif forged == "a link for the marker":
        (place / NEW).rename(place / MOVING)
        (place / MARKER).rename(secret / MARKER)
        (place / MARKER).symlink_to(secret / MARKER)
    else:
        os.mkfifo(place / MOVING)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="a folder with"):
        check_folder(tmp_path / "a", force=True)
    with pytest.raises(CheckpointError):
        starquant_fx.load(tmp_path / "a")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not UTF-8"):
        check_folder(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), force=False)
    assert names(tmp_path) == []


@needs_locks
def test_an_empty_one_is_removed_when_nobody_can_be_about_to_use_it(tmp_path: Path) -> None:
    """A process that was killed just after it had made its hidden folder."""
    place = tmp_path / ".a.0123abcd"
    place.mkdir()
    check_folder(tmp_path / "a", force=False)
    assert place.exists()
    os.utime(place, (0, 0))
    check_folder(tmp_path / "a", force=False)
    assert names(tmp_path) == []
