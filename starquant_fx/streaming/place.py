"""The folder beside the result where a run keeps what it has done: one run's at a time, and gone at its end."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.folders.workplace import hidden, hidden_names, locked
from starquant_fx.models.folder import LOCK, PLAN, QUANT_METHOD, UNFINISHED

FINISHED = "finished"
MARK = "starquant-fx: a run of process "
"""What a lock file begins with; its length never changes, so that nobody reads half of it."""


def unfinished(path: Path) -> Path:
    """Where a run keeps what it has done, by the path of its result."""
    return path.with_name(path.name + UNFINISHED)


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
        if not _is_ours(folder):
            held = sorted(entry.name for entry in folder.iterdir())
            raise refusal(
                "something else is where the run keeps what it has done",
                folder,
                "a folder that an unfinished run left",
                "a link or a mount point"
                if _is_elsewhere(folder)
                else f"a folder with {', '.join(held[:3])}",
                "move it away, or name another folder for the result",
            )
        opened = os.open(
            folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666
        )
        stream = os.fdopen(opened, "r+", encoding="utf-8")
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
            with keeping(folder):
                stream.write(f"{MARK}{os.getpid():<20}\n")
                stream.flush()
                yield folder
        finally:
            _remove_empty(folder, stream)


@contextlib.contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """A context in which what the system says of a write, as that a disk is full, becomes a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise refusal(
            "the run cannot go on",
            folder,
            "files that can be read, and a folder with space that can be written",
            cause(error),
            "free some space, for example, and run the same command again: what is done is kept",
        ) from error


def _is_elsewhere(folder: Path) -> bool:
    """Whether a folder is a link or a mount point, which cannot be renamed and removed."""
    return folder.is_symlink() or folder.is_mount()


def _is_ours(folder: Path) -> bool:
    """Whether a run made a folder: it is empty, or its lock says so, or its plan where somebody removed the lock."""
    held = [entry.name for entry in folder.iterdir()]
    lock, plan = folder / LOCK, folder / PLAN
    if _is_elsewhere(folder) or lock.is_symlink() or plan.is_symlink():
        return False
    if not held:
        return True
    if lock.is_file():
        with lock.open("rb") as stream:
            begin = stream.read(len(MARK))
        return begin == MARK.encode() or (not begin and held == [LOCK])
    return plan.is_file() and QUANT_METHOD.encode() in plan.read_bytes()[:200]


def _lock(stream: IO[str], folder: Path) -> None:
    """Locks the folder's lock file, if it is still that and nobody else has it."""
    try:
        free = locked(stream)
    except OSError as error:
        _remove_empty(folder, stream)
        raise refusal(
            "the file system has no locks, so that two runs at once would not be noticed",
            folder,
            "a file system with flock",
            cause(error),
            "name a folder on another file system for the result, and copy it afterwards",
        ) from error
    if not free or not _is_there(folder, stream):
        raise refusal(
            "another run is at work on this folder",
            folder,
            "one run at a time",
            f"a run of process {stream.read(80).removeprefix(MARK).strip() or 'unknown'}",
            "wait for it, or name another folder for the result",
        )


def _is_there(folder: Path, stream: IO[str]) -> bool:
    """Whether an open file is still the folder's lock: a run that ended meanwhile has removed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), (folder / LOCK).stat())
    except OSError:
        return False


def discard(folder: Path) -> None:
    """Removes the folder of a run that is finished.

    Until only small files are left, it says what was finished, so that the same command goes on if this is interrupted.
    """
    for entry in folder.iterdir():
        if entry.name not in (LOCK, PLAN, FINISHED):
            remove_entry(entry)
    gone = hidden(folder.parent, folder.name)
    folder.rename(gone)
    _remove(gone)


def _remove_discarded(folder: Path) -> None:
    """Removes what runs left that were killed while they discarded their folder."""
    pattern = hidden_names(folder.name)
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


def _remove_empty(folder: Path, stream: IO[str]) -> None:
    """Removes a run's folder that has nothing but its lock, unless it is another run's by now."""
    with contextlib.suppress(OSError):
        if _is_there(folder, stream) and [entry.name for entry in folder.iterdir()] == [LOCK]:
            shutil.rmtree(folder)


def damaged(path: Path, got: str) -> CheckpointError:
    """An error about something in the folder of an unfinished run that is not what the run wrote."""
    folder = next((one for one in path.parents if one.name.endswith(UNFINISHED)), path.parent)
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
