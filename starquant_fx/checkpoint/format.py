"""What a checkpoint's folder holds: names of its files, ``quantization_config``, and the index with its hashes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, StarQuantError, cause
from starquant_fx.folders.kind import FolderKind
from starquant_fx.lowering import TARGETS
from starquant_fx.models.folder import (
    CONFIG_FILE,
    QUANT_METHOD,
    QUANTIZATION,
    quant_method,
    read_json,
)
from starquant_fx.models.locate import DOWNLOADED, TOKENIZER_FILES
from starquant_fx.models.safetensors_files import FLOAT_TYPES, INDEX_FILE
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import from_dict
from starquant_fx.report import Report
from starquant_fx.structure import structured

VERSION = 1
REPORT_FILE = "starquant_report.json"
RUN_FILE = "starquant_run.json"
"""How long a streaming compilation took and how much memory: of another content at every run, so without a hash."""
SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
CARD_FILE = "README.md"
"""The model card; people edit it, so the index has no hash of it."""
FILES = frozenset({CONFIG_FILE, INDEX_FILE, REPORT_FILE, RUN_FILE, CARD_FILE, *TOKENIZER_FILES})
FETCHED = (*DOWNLOADED, REPORT_FILE, CARD_FILE)
"""Patterns of what is fetched from the hub; data only."""
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOAT_TYPES.values()}
"""Float types by the name that ``quantization_config`` gives them."""
AGAIN = "copy the folder again from where it was saved, or save the model again"


def shard_name(number: int, count: int) -> str:
    """Name of a shard, counted from 1."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def is_packed(config: dict[str, Any]) -> bool:
    """Whether the content of a ``config.json`` is a checkpoint's."""
    return quant_method(config) == QUANT_METHOD


CHECKPOINT = FolderKind(
    "a checkpoint",
    main=shard_name(1, 1),
    mark_file=CONFIG_FILE,
    marked=is_packed,
    owns=lambda name: name in FILES or SHARD.fullmatch(name) is not None,
)


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The ``quantization_config`` of a checkpoint; no other keys are read.

    Attributes:
        quant_method: ``starquant``.
        version: Of the format.
        recipe: As ``Recipe.to_dict``.
        mask_token_id: None = the token state is an input.
        dtype: Float type of the model's parameters: ``float32``, ``bfloat16``, ``float16`` or ``float64``.
        target: What the model was lowered to.
        fingerprint: Of the original model's parameters.
        package_version: Of the package that wrote the checkpoint.
    """

    quant_method: str
    version: int
    recipe: Any
    mask_token_id: int | None
    dtype: str
    target: str
    fingerprint: str
    package_version: str

    def parsed_recipe(self) -> Recipe:
        """The recipe.

        Raises:
            CheckpointError: It is none.
        """
        try:
            return from_dict(self.recipe)
        except StarQuantError as error:
            refusal = _damaged(f"{QUANTIZATION}.recipe", error.expected or "a recipe", error.what)
            refusal.hint = error.hint or AGAIN
            raise refusal from error
        except (TypeError, ValueError) as error:
            raise _damaged(f"{QUANTIZATION}.recipe", "a recipe", cause(error)) from error


@dataclasses.dataclass(frozen=True)
class Hashes:
    """What the index says beside ``weight_map``.

    Attributes:
        total_size: Bytes of all tensors.
        tensor_sha256: Of the bytes of every tensor.
        header_sha256: Of every shard's length and header.
        file_sha256: Of every other file but the index.
    """

    total_size: int
    tensor_sha256: dict[str, str]
    header_sha256: dict[str, str]
    file_sha256: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Index:
    """The content of ``model.safetensors.index.json``.

    Attributes:
        metadata: Size and hashes.
        weight_map: Name of a tensor -> its shard.
    """

    metadata: Hashes
    weight_map: dict[str, str]

    def check_size(self, found: int, folder: Path) -> None:
        """Raises a CheckpointError unless this is the size that the index says."""
        if found != self.metadata.total_size:
            said = f"tensors of {self.metadata.total_size} bytes, as total_size says"
            raise _damaged(str(folder / INDEX_FILE), said, f"{found} bytes")


def parse_quantization(values: Any) -> Quantization:
    """Reads a ``quantization_config`` strictly.

    Args:
        values: What JSON holds.

    Raises:
        CheckpointError: It is of another method or version, lacks a key or has one more, or a value does not fit.
    """
    if not isinstance(values, dict) or values.get("quant_method") != QUANT_METHOD:
        raise CheckpointError(
            "the folder is no packed checkpoint",
            where=QUANTIZATION,
            expected=f"quant_method {QUANT_METHOD!r}",
            got=repr(values)[:200],
            hint="starquant_fx.from_pretrained loads models that are not quantized",
        )
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            "the checkpoint is of another version",
            where=f"{QUANTIZATION}.version",
            expected=str(VERSION),
            got=f"{version!r}, written by starquant_fx {values.get('package_version')}",
            hint="load it with the version of starquant_fx that wrote it, or save the model again",
        )
    read: Quantization = structured(Quantization, values, QUANTIZATION)
    for key, known in (("dtype", DTYPES), ("target", TARGETS)):
        if getattr(read, key) not in known:
            raise _damaged(f"{QUANTIZATION}.{key}", ", ".join(known), repr(getattr(read, key)))
    return read


def read_index(folder: Path) -> Index:
    """Reads a checkpoint's index.

    Raises:
        CheckpointError: It is missing or damaged, or names a file that is no shard of the folder.
    """
    index: Index = _located(
        folder / INDEX_FILE,
        lambda: structured(Index, read_json(folder, INDEX_FILE, CheckpointError), INDEX_FILE),
    )
    where, hashes = str(folder / INDEX_FILE), index.metadata
    for name in index.weight_map.values():
        if not SHARD.fullmatch(name):
            raise _damaged(where, f"shards named as {shard_name(1, 1)}", repr(name))
    for name in hashes.file_sha256:
        if name not in FILES or name in (INDEX_FILE, RUN_FILE):
            raise _damaged(where, "the names of a checkpoint's files", repr(name))
    if unhashed := sorted({CONFIG_FILE, REPORT_FILE} - hashes.file_sha256.keys()):
        raise _damaged(where, "file_sha256 of configuration and report", f"none of {unhashed}")
    shards = set(index.weight_map.values())
    for key, names in (("tensor_sha256", index.weight_map.keys()), ("header_sha256", shards)):
        if odd := sorted(getattr(hashes, key).keys() ^ names):
            raise _damaged(where, f"{key} of {len(names)} names", f"missing or extra: {odd[:3]}")
    return index


def read_report(folder: Path) -> Report:
    """Reads a checkpoint's report.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    report: Report = _located(
        folder / REPORT_FILE,
        lambda: structured(Report, read_json(folder, REPORT_FILE, CheckpointError), "report"),
    )
    return report


def _damaged(where: str, expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint is damaged", where=where, expected=expected, got=got, hint=AGAIN
    )


def _located(path: Path, read: Any) -> Any:
    """What is read from a file, with its path in the error."""
    try:
        return read()
    except CheckpointError as error:
        if not str(error.where).startswith(str(path.parent)):
            error.where = f"{path}: {error.where}"
        raise
