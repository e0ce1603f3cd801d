"""The folder beside the result where a run keeps what it has done: one run's at a time, and gone at its end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.folders.workplace import hidden, locked

LOCK = "lock"
ENDING = ".unfinished"


def unfinished(path: Path) -> Path:
    """Where a run keeps what it has done, by the path of its result."""
    return path.with_name(path.name + ENDING)


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[Path]:
    """Makes the folder of a run or comes back to it; no other run can until this one ends.

    Args:
        path: What the run will write, absolute.

    Yields:
        The folder; it is removed at the end if nothing was put there.

    Raises:
        CheckpointError: Another run is at it, it is something else, it cannot be made, or its file system has no locks.
    """
    folder = unfinished(path)
    _remove_discarded(folder)
    try:
        folder.mkdir(exist_ok=True)
        if (foreign := sorted(p.name for p in folder.iterdir())) and LOCK not in foreign:
            raise refusal(
                "something else is where the run keeps what it has done",
                folder,
                "a folder that an unfinished run left",
                f"a folder with {', '.join(foreign[:3])}",
                "move it away, or name another folder for the result",
            )
        stream = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise refusal(
            "the run has no place for what it has done",
            folder,
            "a folder that can be written",
            cause(error),
            "name another folder for the result, in one where folders can be made",
        ) from error
    with stream:
        _lock(stream, folder)
        try:
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            yield folder
        finally:
            _remove_empty(folder)


def _lock(stream: IO[str], folder: Path) -> None:
    """Locks the folder's lock file, if it is still that and nobody else has it."""
    try:
        free = locked(stream)
    except OSError as error:
        _remove_empty(folder)
        raise refusal(
            "the file system has no locks, so that two runs at once would not be noticed",
            folder,
            "a file system with flock",
            cause(error),
            "name a folder on another file system for the result, and copy it afterwards",
        ) from error
    here = folder / LOCK
    # A run that ended meanwhile has removed the file that was opened.
    if (
        not free
        or not here.exists()
        or not os.path.samestat(os.fstat(stream.fileno()), here.stat())
    ):
        stream.seek(0)
        raise refusal(
            "another run is at work on this folder",
            folder,
            "one run at a time",
            f"a run of process {stream.read(20).strip() or 'unknown'}",
            "wait for it, or name another folder for the result",
        )


def discard(folder: Path) -> None:
    """Removes the folder of a run that is finished; what is left if that is interrupted belongs to no run any more."""
    gone = hidden(folder.parent, folder.name)
    folder.rename(gone)
    _remove(gone)


def _remove_discarded(folder: Path) -> None:
    """Removes what runs left that were killed while they discarded their folder."""
    pattern = re.compile(re.escape(f".{folder.name}.") + "[0-9a-f]{8}")
    with contextlib.suppress(OSError):
        for gone in sorted(folder.parent.iterdir()):
            if not pattern.fullmatch(gone.name) or gone.is_symlink():
                continue
            with contextlib.suppress(OSError), (gone / LOCK).open("r+", encoding="utf-8") as stream:
                if locked(stream):
                    _remove(gone)


def _remove(folder: Path) -> None:
    """Removes a folder, its lock last."""
    for entry in folder.iterdir():
        if entry.name != LOCK:
            remove_entry(entry)
    shutil.rmtree(folder)


def remove_entry(entry: Path) -> None:
    """Removes a file, or a folder with all that is in it."""
    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _remove_empty(folder: Path) -> None:
    """Removes a run's folder that has nothing but its lock."""
    with contextlib.suppress(OSError):
        if [entry.name for entry in folder.iterdir()] == [LOCK]:
            shutil.rmtree(folder)


def damaged(path: Path, got: str) -> CheckpointError:
    """An error about something in the folder of an unfinished run that is not what the run wrote."""
    folder = next((one for one in path.parents if one.name.endswith(ENDING)), path.parent)
    return refusal(
        "what an unfinished run left is damaged",
        path,
        "the file as it was written",
        got,
        f"remove {str(folder)!r} to begin anew",
    )


def refusal(what: str, where: Path, expected: str, got: str, hint: str) -> CheckpointError:
    """An error about the folder of a run."""
    return CheckpointError(what, where=str(where), expected=expected, got=got, hint=hint)
