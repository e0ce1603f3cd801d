"""Writing a folder whole or not at all, and finding out beforehand whether it can be written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from starquant_fx.errors import CheckpointError, InputError, cause
from starquant_fx.folders.exchange import exchange, sync_folder
from starquant_fx.folders.kind import FolderKind
from starquant_fx.folders.workplace import (
    NEW,
    OLD,
    hidden,
    move_up,
    remove_remains,
    workplace,
)


def check_folder(given: str | os.PathLike[str], kind: FolderKind, force: bool) -> Path:
    """Checks, before any work, that a folder can be written.

    Args:
        given: The folder.
        kind: Of what it will be.
        force: Whether one of the same kind that is there may be replaced.

    Returns:
        The path, absolute and without symbolic links.

    Raises:
        InputError: It is no path, or has the name of a file.
        CheckpointError: Something else is there, or nothing can be written.
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise InputError(
            "this is no name of a folder",
            where="path",
            expected="a str or a pathlib.Path",
            got=repr(given)[:200],
            hint=f"name the folder that the {kind.word} is written to",
        )
    path = Path(given)
    ending = Path(kind.main).suffix
    if path.suffix == ending:
        raise InputError(
            f"{kind.noun} is a folder, not a file",
            where="path",
            expected=f"the name of a folder; the model in it is {kind.main}",
            got=str(given),
            hint=f"leave the ending {ending} out",
        )
    folder = path.parent
    try:
        path = path.resolve()
        folder = path.parent
        _check_text(path)
        remove_remains(path)
        if _check_held(path, kind, force) == 0:
            folder = path
        probe = hidden(folder, path.name)
        probe.mkdir()
        probe.rmdir()
    except (OSError, ValueError, RuntimeError) as error:  # the last of a loop of links
        missing = isinstance(error, FileNotFoundError) and not os.path.lexists(folder)
        hint = "make the folder above it first" if missing else "name a folder elsewhere"
        got = _reason(folder, error)
        raise _refusal(path, kind, "a folder that can be written", got, hint) from error
    return path


def _check_held(path: Path, kind: FolderKind, force: bool) -> int | None:
    """Refuses a path where anything is that must not be replaced; else how many files are there, None = no folder."""
    if not path.exists():
        return None
    held = list(path.iterdir()) if path.is_dir() else None
    ours = kind.is_one(path)
    foreign = sorted(p.name for p in held or () if not ours or not kind.owns(p.name) or p.is_dir())
    if held is None or foreign:
        got = "a file" if held is None else f"a folder with {', '.join(foreign[:5])}"
        raise _refusal(
            path, kind, f"a new or empty folder, or {kind.noun}", got, "name another folder"
        )
    if held and not force:
        raise _refusal(path, kind, "a new or empty folder", kind.noun, "force=True replaces it")
    if held and path.is_mount():
        hint = f"remove the files of the {kind.word} first, or name a folder in it"
        raise _refusal(
            path, kind, "a folder that can be renamed", f"a mount point with {kind.noun}", hint
        )
    return len(held)


@contextlib.contextmanager
def replacing_folder(path: Path, kind: FolderKind) -> Iterator[Path]:
    """Gives a folder to write to; at the end it takes the path's place, or is removed if anything failed.

    An empty folder that is there stays, as it may be a mount point, or the only place that can be written: it is
    written in a hidden folder in it, and the files move up at the end, the mark last. Else the hidden folder is
    beside the path and replaces it at once.

    Args:
        path: As ``check_folder`` returned it.
        kind: Of what is written.

    Raises:
        CheckpointError: Something cannot be written.
    """
    folder = path.parent
    try:
        there = path.exists()
        empty = there and not any(path.iterdir())
        folder = path if empty else folder
        with workplace(folder, path.name, kind.mark_file) as place:
            yield place / NEW
            for file in (place / NEW).iterdir():
                if not kind.owns(file.name) and file.is_dir():  # what a report could not clean up
                    shutil.rmtree(file)
                    continue
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            sync_folder(place / NEW)
            if empty:
                _check_empty(place, path, kind)
                move_up(place)
            else:
                _put(place, path, kind, there)
            sync_folder(folder)
    except OSError as error:
        hint = "free some space or name another place"
        got = _reason(folder, error)
        raise _refusal(path, kind, "a place that can be written", got, hint) from error


def _check_empty(place: Path, path: Path, kind: FolderKind) -> None:
    """Refuses a folder with anything in it but a workplace."""
    came = sorted(p.name for p in path.iterdir() if p != place)
    if came:
        got = f"a folder with {', '.join(came[:5])}"
        raise _refusal(path, kind, "the empty folder that it was", got, "name another folder")


def _put(place: Path, path: Path, kind: FolderKind, replacing: bool) -> None:
    """Renames the folder of a workplace to a path, at once if the system can; else what is there comes back."""
    old = place / OLD
    try:
        if replacing:
            _check_held(path, kind, force=True)  # somebody may have put something there meanwhile
            if exchange(place / NEW, path):
                return
            path.rename(old)
        (place / NEW).rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)


def _check_text(path: Path) -> None:
    """Refuses a path that is no text; Python keeps bytes that are none as lone surrogates."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            "the name of this folder is not UTF-8",
            where="path",
            expected="a name that other programs can read: it is written to files, and to be shown",
            got=ascii(str(path)),
            hint="name another folder",
        ) from error


def _reason(folder: Path, error: Exception) -> str:
    """What the system said, of the folder written in: a temporary name would tell nobody anything."""
    if not isinstance(error, OSError) or not error.strerror:
        return cause(error)
    said = f"{type(error).__name__}: {error.strerror}"
    if isinstance(error, FileNotFoundError) and folder.is_dir():
        return f"{str(folder)!r} takes no new folders ({said})"
    return f"{said}: {str(folder)!r}"


def _refusal(path: Path, kind: FolderKind, expected: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(
        f"the {kind.word} cannot be written here",
        where=str(path),
        expected=expected,
        got=got,
        hint=hint,
    )
