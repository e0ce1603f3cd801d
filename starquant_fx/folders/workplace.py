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
"""What a marker begins with; after it stands the name of the file that comes to its place last."""
NEW, OLD, MOVING = "new", "old", "moving"
"""Folders in a workplace: what is written, what it takes the place of, and what is left of it as its files move up."""
_YOUNG = 3600.0
"""Seconds for which an empty hidden folder may be one that a process is about to write in."""
_PATIENCE = 10.0
"""Seconds for which another process may take to move files up."""


def hidden(folder: Path, name: str) -> Path:
    """A new hidden name in a folder, for what will be called ``name``."""
    return folder / f".{name}.{secrets.token_hex(4)}"


def hidden_names(name: str) -> re.Pattern[str]:
    """The names that ``hidden`` gives for what will be called ``name``."""
    return re.compile(re.escape(f".{name}.") + _TOKEN)


_TOKEN = "[0-9a-f]{8}"
ANY_HIDDEN = re.compile(rf"\..+\.{_TOKEN}", re.DOTALL)
"""The names that ``hidden`` gives, whatever for."""
_LONGEST_NAME = 256


@contextlib.contextmanager
def workplace(folder: Path, name: str, last: str = "") -> Iterator[Path]:
    """Makes a hidden folder with an empty folder ``NEW`` in it, and removes it at the end.

    While its process lives, a lock on its marker keeps ``remove_remains`` of other processes away.

    Args:
        folder: Where.
        name: What the folder will be called.
        last: Name of the file that ``move_up`` moves last.

    Raises:
        OSError: It cannot be made.
    """
    place = hidden(folder, name)
    try:
        place.mkdir()
        with (place / MARKER).open("w", encoding="utf-8") as stream:
            with contextlib.suppress(OSError):
                locked(stream)
            stream.write(CONTENT + last)  # a marker without it is not one yet: there is no lock
            stream.flush()
            (place / NEW).mkdir()
            yield place
    finally:
        _discard(place)


def move_up(place: Path) -> None:
    """Moves the files of ``NEW`` to the folder that a workplace is in.

    If that fails they are removed. If the process is killed, ``remove_remains`` goes on.

    Args:
        place: The workplace.

    Raises:
        OSError: One cannot be moved, or something has its name.
    """
    last = (place / MARKER).read_text(encoding="utf-8").removeprefix(CONTENT)
    names = sorted(file.name for file in (place / NEW).iterdir())
    (place / NEW).rename(place / MOVING)
    try:
        sync_folder(place)
        _move(place, last)
    except BaseException:
        (place / MARKER).unlink()  # from here on nothing must go on
        for name in names:
            if not os.path.lexists(place / MOVING / name):
                (place.parent / name).unlink(missing_ok=True)
        raise


def _move(place: Path, last: str) -> None:
    """Moves the files of ``MOVING`` up, one of them last; none over another that is there."""
    names = [file.name for file in (place / MOVING).iterdir()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        if os.path.lexists(place.parent / name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        (place / MOVING / name).rename(place.parent / name)


def remove_remains(path: Path) -> None:
    """Removes the workplaces of a folder whose processes were killed, and nothing else.

    A workplace has a hidden name made of the folder's (in the folder itself, of any: the folder may have been renamed),
    a marker with our text that nobody has locked, and nothing that is not ours beside it; or it is empty and not new.
    A folder that was just to be replaced goes back, and files that were moving up go on. Without locks (Windows, some
    network file systems) nobody knows whether a process lives, and nothing is removed.

    Args:
        path: The folder, absolute.
    """
    for folder, pattern in ((path.parent, hidden_names(path.name)), (path, ANY_HIDDEN)):
        _remove_in(folder, pattern, path)


def recover(path: Path, mark: str) -> None:
    """Ends what a killed process was about to do when only names were left to change, before a folder is read.

    Files in the folder that were moving up go on; where it is missing, one that was just being replaced comes back.

    Args:
        path: The folder.
        mark: Name of the file without which it is incomplete; nothing is done where that is.
    """
    with contextlib.suppress(OSError, ValueError):
        if (path / mark).exists():
            return
        if path.exists():
            _remove_in(path, ANY_HIDDEN, path)
        else:
            _remove_in(path.parent, hidden_names(path.name), path)


def _remove_in(folder: Path, pattern: re.Pattern[str], path: Path) -> None:
    with contextlib.suppress(OSError):
        for place in sorted(folder.iterdir()):
            if pattern.fullmatch(place.name) and place.is_dir() and not place.is_symlink():
                with contextlib.suppress(OSError):
                    _remove(place, path)


def _remove(place: Path, path: Path) -> None:
    entries = list(place.iterdir())
    held = {entry.name for entry in entries}
    if held <= {MARKER} and not any(entry.stat().st_size for entry in entries):
        if time.time() - place.stat().st_mtime > _YOUNG:
            shutil.rmtree(place)
        return
    if not held <= {MARKER, NEW, OLD, MOVING} or MARKER not in held:
        return
    moving = MOVING in held
    if moving and place.parent != path:
        return
    if any(one.is_symlink() or one.is_file() != (one.name == MARKER) for one in entries):
        return
    with (place / MARKER).open("r+", encoding="utf-8") as stream:
        if not _lockable(stream, _PATIENCE if moving else 0.0):
            return
        text = stream.read(len(CONTENT) + _LONGEST_NAME)
        if not text.startswith(CONTENT):
            return
        if {NEW, OLD} <= held:
            if os.path.lexists(path):
                return
            (place / OLD).rename(path)
        if moving:
            _move(place, text.removeprefix(CONTENT))
            sync_folder(path)
    _discard(place)


def _lockable(stream: IO[str], patience: float) -> bool:
    """Locks an open file; False if somebody else has it for longer."""
    end = time.monotonic() + patience
    while not locked(stream):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


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
    for name in (NEW, OLD, MOVING):
        shutil.rmtree(place / name, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
