"""Writing an exported folder whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

import onnx_ir as ir

import starquant_fx
from starquant_fx.files import sha256_of, write_atomically
from starquant_fx.folders import writing
from starquant_fx.folders.kind import FolderKind
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
EXPORT = FolderKind(
    "an export",
    main=MODEL,
    mark_file=METADATA,
    marked=lambda content: content.get("format") == FORMAT,
    owns=FILES.__contains__,
)
PRODUCER = "starquant-fx"
INLINE = 1 << 30
"""Bytes of tensors up to which everything is in one file; a protocol buffer holds two gigabytes at most."""


def check_folder(given: str | os.PathLike[str], force: bool) -> Path:
    """Checks, before any work, that an export can be written; see ``folders.writing``."""
    return writing.check_folder(given, EXPORT, force)


def replacing_folder(path: Path) -> AbstractContextManager[Path]:
    """Gives a folder to write an export to, which then takes the path's place; see ``folders.writing``."""
    return writing.replacing_folder(path, EXPORT)


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
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
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
