"""Hidden folders that others are written in, and what is left of one whose process was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from starquant_fx.folders.exchange import sync_folder

if sys.platform != "win32":
    import fcntl

MARKER = "unfinished"
CONTENT = "starquant-fx: a folder is being written here\n"
NEW, OLD, MOVING = "new", "old", "moving"
"""Names in a workplace: the folder that is written, the one that it takes the place of, and a file that is there while
the files of ``NEW`` move up, with the name of the one that is the last."""
_YOUNG = 60.0
"""Seconds for which an empty hidden folder may be one that a process is about to write in."""


def hidden(folder: Path, name: str) -> Path:
    """A new hidden name in a folder, for what will be called ``name``."""
    return folder / f".{name}.{secrets.token_hex(4)}"


def hidden_names(name: str) -> re.Pattern[str]:
    """The names that ``hidden`` gives for what will be called ``name``."""
    return re.compile(re.escape(f".{name}.") + "[0-9a-f]{8}")


@contextlib.contextmanager
def workplace(folder: Path, name: str) -> Iterator[Path]:
    """Makes a hidden folder with an empty folder ``NEW`` in it, and removes it at the end.

    While its process lives, a lock on its marker keeps ``remove_remains`` of other processes away.

    Args:
        folder: Where.
        name: What the folder will be called.

    Raises:
        OSError: It cannot be made.
    """
    place = hidden(folder, name)
    try:
        place.mkdir()
        with (place / MARKER).open("w", encoding="utf-8") as stream:
            with contextlib.suppress(OSError):
                locked(stream)
            stream.write(CONTENT)  # a marker without it is not one yet: there is no lock
            stream.flush()
            (place / NEW).mkdir()
            yield place
    finally:
        _discard(place)


def remove_remains(path: Path) -> None:
    """Removes the workplaces of a folder whose processes were killed, and nothing else.

    A workplace has a hidden name made of the folder's, a marker with our text that nobody has locked, and nothing that
    is not ours beside it. A folder that was just to be replaced goes back, and files that were moving up go on. Without
    locks (Windows, some network file systems) nobody knows whether a process lives, and nothing is removed.

    Args:
        path: The folder, absolute.
    """
    pattern = hidden_names(path.name)
    for folder in (path.parent, path):
        with contextlib.suppress(OSError):
            for place in sorted(folder.iterdir()):
                if pattern.fullmatch(place.name) and place.is_dir() and not place.is_symlink():
                    with contextlib.suppress(OSError):
                        _remove(place, path)


def _remove(place: Path, path: Path) -> None:
    held = {file.name for file in place.iterdir()}
    marker = place / MARKER
    if not held:
        _remove_before_use(place)
    if not held <= {MARKER, NEW, OLD, MOVING} or marker.is_symlink() or not marker.is_file():
        return
    with marker.open("r+", encoding="utf-8") as stream:
        if not locked(stream) or stream.read(len(CONTENT) + 1) != CONTENT:
            return
        if {NEW, OLD} <= held:
            if os.path.lexists(path):
                return
            (place / OLD).rename(path)
        if MOVING in held and not _go_on(place, path):
            return
    _discard(place)


def _remove_before_use(place: Path) -> None:
    """Removes an empty folder, unless a process may have just made it."""
    if time.time() - place.stat().st_mtime > _YOUNG:
        place.rmdir()


def move_up(place: Path, last: str) -> None:
    """Moves the files of ``NEW`` to the folder that a workplace is in.

    If that fails they are removed. If the process is killed, ``remove_remains`` goes on.

    Args:
        place: The workplace.
        last: Name of the file that moves last.

    Raises:
        OSError: One cannot be moved.
    """
    moved: list[Path] = []
    try:
        with (place / MOVING).open("w", encoding="utf-8") as stream:
            stream.write(last)
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(place)
        for name in _in_order(place, last):
            moved.append(place.parent / name)
            (place / NEW / name).rename(place.parent / name)
    except BaseException:
        (place / MOVING).unlink(missing_ok=True)  # from here on nothing must go on
        for file in moved:
            file.unlink(missing_ok=True)
        raise


def _go_on(place: Path, path: Path) -> bool:
    """Moves what a killed process has not moved up yet; False if something else has the name of a file."""
    if place.parent != path:
        return False
    names = _in_order(place, (place / MOVING).read_text(encoding="utf-8"))
    if any(os.path.lexists(path / name) for name in names):
        return False
    for name in names:
        (place / NEW / name).rename(path / name)
    sync_folder(path)
    return True


def _in_order(place: Path, last: str) -> list[str]:
    """The names in ``NEW``, in the order in which they move."""
    names = (file.name for file in (place / NEW).iterdir())
    return sorted(names, key=lambda name: (name == last, name))


def locked(stream: IO[str]) -> bool:
    """Locks an open file until it is closed; False if somebody else has it.

    Raises:
        OSError: The system or the file system has no locks.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _discard(place: Path) -> None:
    """Removes a workplace, its marker last."""
    for name in (NEW, OLD):
        shutil.rmtree(place / name, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
