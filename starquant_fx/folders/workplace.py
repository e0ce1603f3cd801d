"""Hidden folders that others are written in, and what is left of one whose process was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

MARKER = "unfinished"
CONTENT = "starquant-fx: a folder is being written here\n"
NEW, OLD = "new", "old"
"""Names in a workplace: the folder that is written, and the one that it takes the place of."""


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
    is not ours beside it. A folder that was just to be replaced goes back. Without locks (Windows, some network file
    systems) nobody knows whether a process lives, and nothing is removed.

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
    if not held <= {MARKER, NEW, OLD} or marker.is_symlink() or not marker.is_file():
        return
    with marker.open("r+", encoding="utf-8") as stream:
        if not locked(stream) or stream.read(len(CONTENT) + 1) != CONTENT:
            return
        if {NEW, OLD} <= held:
            if os.path.lexists(path):
                return
            (place / OLD).rename(path)
    _discard(place)


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
