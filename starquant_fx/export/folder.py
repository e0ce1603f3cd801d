"""Writing an exported folder whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

import starquant_fx
from starquant_fx.errors import CheckpointError, InputError, cause
from starquant_fx.export.workplace import NEW, OLD, hidden, remove_remains, workplace
from starquant_fx.files import write_atomically
from starquant_fx.runtime.metadata import (
    DATA,
    FORMAT,
    METADATA,
    MODEL,
    TOKENIZER,
    VERSION,
    Metadata,
)

FILES = {MODEL, DATA, METADATA, TOKENIZER}
"""Names of an export's files."""
PRODUCER = "starquant-fx"
INLINE = 1 << 30
"""Bytes of tensors up to which everything is in one file; a protocol buffer holds two gigabytes at most."""


def check_folder(given: str | os.PathLike[str], force: bool) -> Path:
    """Checks, before any work, that an export can be written.

    Args:
        given: The folder.
        force: Whether an export that is there may be replaced.

    Returns:
        The path, absolute and without symbolic links.

    Raises:
        InputError: It is no path, or the name of an ONNX file.
        CheckpointError: Something else is there, or nothing can be written.
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise InputError(
            "this is no name of a folder",
            where="path",
            expected="a str or a pathlib.Path",
            got=repr(given)[:200],
            hint="name the folder that the export is written to",
        )
    path = Path(given)
    if path.suffix == ".onnx":
        raise InputError(
            "an export is a folder, not a file",
            where="path",
            expected=f"the name of a folder; the model in it is {MODEL}",
            got=str(given),
            hint="leave the ending .onnx out",
        )
    folder = path.parent
    try:
        path = path.resolve()
        folder = path.parent
        remove_remains(path)
        if _check_held(path, force) == 0:
            folder = path
        probe = hidden(folder, path.name)
        probe.mkdir()
        probe.rmdir()
    except (OSError, ValueError, RuntimeError) as error:  # the last of a loop of links
        hint = "make the folder above it first, or name another one"
        got = _reason(folder, error)
        raise _refusal(path, "a folder that can be written", got, hint) from error
    return path


def _check_held(path: Path, force: bool) -> int | None:
    """Refuses a path where anything is that must not be replaced; else how many files are there, None = no folder."""
    if not path.exists():
        return None
    held = list(path.iterdir()) if path.is_dir() else None
    ours = is_export(path)
    foreign = sorted(p.name for p in held or () if not ours or p.name not in FILES or p.is_dir())
    if held is None or foreign:
        got = "a file" if held is None else f"a folder with {', '.join(foreign[:5])}"
        raise _refusal(path, "a new or empty folder, or an export", got, "name another folder")
    if held and not force:
        raise _refusal(path, "a new or empty folder", "an export", "force=True replaces it")
    if held and path.is_mount():
        hint = "remove the files of the export first, or name a folder in it"
        raise _refusal(path, "a folder that can be renamed", "a mount point with an export", hint)
    return len(held)


def is_export(folder: Path) -> bool:
    """Whether a folder's metadata has our mark; nothing else makes it one that may be replaced."""
    try:
        content = json.loads((folder / METADATA).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to write to; at the end it takes the path's place, or is removed if anything failed.

    An empty folder that is there stays, as it may be a mount point, or the only place that can be written: it is
    written in a hidden folder in it, and the files move up at the end, the metadata last. Else the hidden folder is
    beside the path and replaces it at once.

    Args:
        path: As ``check_folder`` returned it.

    Raises:
        CheckpointError: Something cannot be written.
    """
    folder = path.parent
    try:
        there = path.exists()
        empty = there and not any(path.iterdir())
        folder = path if empty else folder
        with workplace(folder, path.name) as place:
            yield place / NEW
            for file in (place / NEW).iterdir():
                if file.name not in FILES and file.is_dir():  # what a report could not clean up
                    shutil.rmtree(file)
                    continue
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            if empty:
                _move_up(place, path)
            else:
                _put(place, path, there)
    except OSError as error:
        hint = "free some space or name another place"
        got = _reason(folder, error)
        raise _refusal(path, "a place that can be written", got, hint) from error


def _move_up(place: Path, path: Path) -> None:
    """Moves the files of a workplace in a folder, which must be empty otherwise, to the folder itself."""
    came = sorted(p.name for p in path.iterdir() if p != place)
    if came:
        got = f"a folder with {', '.join(came[:5])}"
        raise _refusal(path, "the empty folder that it was", got, "name another folder")
    names = [p.name for p in (place / NEW).iterdir()]
    moved = []
    try:
        for name in sorted(names, key=lambda name: (name == METADATA, name)):
            moved.append(path / name)
            (place / NEW / name).rename(path / name)
    except BaseException:
        for file in moved:
            file.unlink(missing_ok=True)
        raise


def _put(place: Path, path: Path, replacing: bool) -> None:
    """Renames the folder of a workplace to a path; an export that is there comes back if that fails."""
    old = place / OLD
    try:
        if replacing:
            _check_held(path, force=True)  # somebody may have put something there meanwhile
            path.rename(old)
        (place / NEW).rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)


def write(folder: Path, model: ir.Model, metadata: Metadata, tokenizer: str | None) -> None:
    """Writes an export's files.

    Args:
        folder: Where to.
        model: Its tensors are computed one by one as they are written.
        metadata: The hashes of its files are added.
        tokenizer: Content of ``tokenizer.json``.
    """
    model.producer_name, model.producer_version = PRODUCER, starquant_fx.__version__
    model.metadata_props.update(_properties(metadata))
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    data = DATA if size > INLINE else None
    ir.save(model, folder / MODEL, external_data=data, max_workers=1)  # one tensor at a time
    if tokenizer is not None:
        (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    files = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            files[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    content = {
        "format": FORMAT,
        "version": VERSION,
        **dataclasses.asdict(dataclasses.replace(metadata, files=files)),
    }
    write_atomically(folder / METADATA, json.dumps(content, indent=2) + "\n")


def _properties(metadata: Metadata) -> dict[str, str]:
    """What the ONNX file says about itself, for whoever has the file alone."""
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "flavour": metadata.flavour,
        "head": metadata.head,
        "recipe": metadata.recipe,
        "mask_token_id": metadata.mask_token_id,
    }
    return {f"starquant.{name}": str(v) for name, v in facts.items() if v is not None}


def _reason(folder: Path, error: Exception) -> str:
    """What the system said, of the folder written in: a temporary name would tell nobody anything."""
    if not isinstance(error, OSError) or not error.strerror:
        return cause(error)
    said = f"{type(error).__name__}: {error.strerror}"
    if isinstance(error, FileNotFoundError) and folder.is_dir():
        return f"{str(folder)!r} takes no new folders ({said})"
    return f"{said}: {str(folder)!r}"


def _refusal(path: Path, expected: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(
        "the export cannot be written here", where=str(path), expected=expected, got=got, hint=hint
    )
