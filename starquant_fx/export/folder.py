"""Writing an exported folder whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from starquant_fx.errors import CheckpointError, cause
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

INLINE = 1 << 30
"""Bytes of tensors up to which everything is in one file; a protocol buffer holds two gigabytes at most."""


def check_folder(path: Path, force: bool) -> Path:
    """Checks, before any work, that an export can be written.

    Args:
        path: The folder.
        force: Whether an export that is there may be replaced.

    Returns:
        The path, absolute.

    Raises:
        CheckpointError: Something else is there, or nothing can be written.
    """
    path = path.absolute()
    if path.exists() or path.is_symlink():
        held = sorted(p.name for p in path.iterdir()) if path.is_dir() else None
        if held is None or (held and METADATA not in held):
            got = "a file" if held is None else f"a folder with {', '.join(held[:5])}"
            raise _refusal(path, "a new or empty folder, or an export", got, "name another folder")
        if held and not force:
            raise _refusal(path, "a new or empty folder", "an export", "force=True replaces it")
    probe = _beside(path)
    try:
        probe.mkdir()
        probe.rmdir()
    except (OSError, ValueError) as error:
        hint = "make the folder above it first, or name another one"
        raise _refusal(path, "a folder that can be written", cause(error), hint) from error
    return path


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
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        hint = "free some space or name another place"
        raise _refusal(path, "a place that can be written", cause(error), hint) from error
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


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _refusal(path: Path, expected: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(
        "the export cannot be written here", where=str(path), expected=expected, got=got, hint=hint
    )
