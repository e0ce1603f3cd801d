"""Writing an exported folder whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

import starquant_fx
from starquant_fx.errors import CheckpointError, InputError, cause
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
    if not isinstance(given, str | os.PathLike) or Path(given).suffix == ".onnx":
        raise InputError(
            "an export is a folder, not a file",
            where="path",
            expected=f"the name of a folder; the model in it is {MODEL}",
            got=repr(given) if isinstance(given, int | None) else str(given),
            hint="leave the ending .onnx out",
        )
    path = Path(given)
    try:
        path = path.resolve()
        _check_held(path, force)
        probe = _beside(path)
        probe.mkdir()
        probe.rmdir()
    except (OSError, ValueError, RuntimeError) as error:  # the last of a loop of links
        hint = "make the folder above it first, or name another one"
        raise _refusal(path, "a folder that can be written", _reason(path, error), hint) from error
    return path


def _check_held(path: Path, force: bool) -> None:
    """Refuses a path where anything is that must not be replaced."""
    if not path.exists():
        return
    held = {p.name for p in path.iterdir()} if path.is_dir() else None
    foreign = sorted(held - FILES if held and METADATA in held else held or ())
    if held is None or foreign:
        got = "a file" if held is None else f"a folder with {', '.join(foreign[:5])}"
        raise _refusal(path, "a new or empty folder, or an export", got, "name another folder")
    if held and not force:
        raise _refusal(path, "a new or empty folder", "an export", "force=True replaces it")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives a hidden folder to write to; at the end it takes the path's place, or is removed if anything failed.

    Raises:
        CheckpointError: Something cannot be written.
    """
    temporary, old = _beside(path), _beside(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        hint = "free some space or name another place"
        raise _refusal(path, "a place that can be written", _reason(path, error), hint) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


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


def _reason(path: Path, error: Exception) -> str:
    """What the system said, of the folder above: the temporary folder's name would tell nobody anything."""
    if not isinstance(error, OSError) or not error.strerror:
        return cause(error)
    return f"{type(error).__name__}: {error.strerror}: {str(path.parent)!r}"


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _refusal(path: Path, expected: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(
        "the export cannot be written here", where=str(path), expected=expected, got=got, hint=hint
    )
