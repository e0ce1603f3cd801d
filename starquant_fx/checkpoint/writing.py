"""Saving a compiled model as a packed checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import starquant_fx
from starquant_fx.checkpoint import checks
from starquant_fx.checkpoint.card import check_tags, model_card
from starquant_fx.checkpoint.format import (
    CARD_FILE,
    CHECKPOINT,
    REPORT_FILE,
    VERSION,
    Hashes,
    Index,
    Quantization,
    shard_name,
)
from starquant_fx.checkpoint.shards import plan, write_shard
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import InputError, cause
from starquant_fx.files import sha256_of
from starquant_fx.folders.writing import check_folder, replacing_folder
from starquant_fx.models.folder import CONFIG_FILE, QUANT_METHOD, QUANTIZATION
from starquant_fx.models.locate import TOKENIZER_FILES
from starquant_fx.models.safetensors_files import INDEX_FILE
from starquant_fx.recipe import Recipe
from starquant_fx.report import Report
from starquant_fx.sampling.arguments import flag

SHARD_BYTES = 5_000_000_000


def save(
    compiled: CompiledModel,
    folder: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    shard_bytes: int | str = SHARD_BYTES,
    force: bool = False,
    base_model: str | None = None,
    tags: str | Sequence[str] = (),
) -> Path:
    """Writes a packed checkpoint: everything that the model computes with, to be loaded without the original model.

    The folder is written under a hidden name and takes its place when it is complete; if that is interrupted, what was
    there before stays, or is there again at the next load or save. Tensors are written in pieces.

    Models that transformers implements cannot be saved, because a model is built again from its configuration and ours
    does so for the types ``llada`` and ``Dream`` only.

    Args:
        compiled: The compiled model.
        folder: Where to; its parent must exist.
        tokenizer: The model's, to be written beside it.
        shard_bytes: Bytes of a file of tensors at most, or such as ``5GB``.
        force: Whether a checkpoint that is there is replaced, with its model card.
        base_model: Hub id of the model that was quantized, for the model card.
        tags: Further tags of the model card.

    Returns:
        The folder's path.

    Raises:
        InputError: The model cannot be saved, or an argument does not fit.
        CheckpointError: The folder cannot be written, or something else is there.
    """
    architecture = checks.check_compiled(compiled)
    limit = checks.check_shard_bytes(shard_bytes)
    named = check_tags(tags)
    path = check_folder(folder, CHECKPOINT, flag("force", force))
    published = checks.published_keys(compiled.config, compiled.frame, architecture)
    says = quantization_of(compiled)
    tensors = {name: tensor.detach() for name, tensor in compiled.tensors().items()}
    checks.check_tensors(tensors)
    with replacing_folder(path, CHECKPOINT) as place:
        files = write_description(place, published, says, compiled.report, tokenizer)
        shards = plan(tensors, limit)
        hashes: dict[str, str] = {}
        headers: dict[str, str] = {}
        where: dict[str, str] = {}
        for number, names in enumerate(shards, 1):
            shard = shard_name(number, len(shards))
            held = {name: tensors[name] for name in names}
            headers[shard], found = write_shard(place / shard, held)
            hashes |= found
            where |= dict.fromkeys(names, shard)
        size = sum(tensor.nbytes for tensor in tensors.values())
        write_index(place, Index(Hashes(size, hashes, headers, files), where))
        model_type, spoken = published["model_type"], has_tokenizer(files)
        card = model_card(compiled.report, model_type, says, size, base_model, named, spoken)
        write_card(place, card)
    return path


def quantization_of(compiled: CompiledModel) -> Quantization:
    """What the ``quantization_config`` of a compiled model says.

    Raises:
        InputError: Its recipe cannot be written, or its parameters are of several float types.
    """
    return quantization(
        compiled.recipe,
        compiled.program.mask_token_id,
        checks.dtype_name(compiled.frame),
        compiled.report.target,
        compiled.fingerprint,
    )


def quantization(
    recipe: Recipe, mask_token_id: int | None, dtype: str, target: str, fingerprint: str
) -> Quantization:
    """The ``quantization_config`` of this version of the package.

    Raises:
        InputError: The recipe cannot be read back.
    """
    return Quantization(
        quant_method=QUANT_METHOD,
        version=VERSION,
        recipe=checks.check_recipe(recipe),
        mask_token_id=mask_token_id,
        dtype=dtype,
        target=target,
        fingerprint=fingerprint,
        package_version=starquant_fx.__version__,
    )


def write_description(
    folder: Path, published: dict[str, Any], says: Quantization, report: Report, tokenizer: Any
) -> dict[str, str]:
    """Writes what stands beside the shards and has a hash in the index.

    Args:
        folder: An empty folder.
        published: The model's configuration.
        says: What is added to it.
        report: The report.
        tokenizer: The model's, or None.

    Returns:
        SHA-256 of every file.

    Raises:
        InputError: The tokenizer is of another kind.
        OSError: A file cannot be written.
    """
    write_tokenizer(folder, tokenizer)
    write_json(folder / REPORT_FILE, report.to_dict())
    config = {**published, QUANTIZATION: dataclasses.asdict(says)}
    config.pop("auto_map", None)  # names code that is not in this folder
    write_json(folder / CONFIG_FILE, config)
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir())}


def write_index(folder: Path, index: Index) -> None:
    """Writes the index."""
    write_json(folder / INDEX_FILE, dataclasses.asdict(index))


def write_card(folder: Path, card: str) -> None:
    """Writes the model card, which has no hash: people edit it."""
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Writes the files of a transformers tokenizer.

    Raises:
        InputError: It is of another kind.
    """
    if tokenizer is None:
        return
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # whatever a tokenizer raises: it is not written
        if "(os error " in str(error):  # what the tokenizers library makes of what the system says
            raise OSError(str(error)) from error
        raise InputError(
            "the tokenizer cannot be written",
            where="tokenizer",
            expected="a fast tokenizer of transformers, as from_pretrained returns it",
            got=f"{type(tokenizer).__name__}; {cause(error)}",
            hint="leave the argument out, and copy the tokenizer's files into the folder",
        ) from error
    for file in folder.iterdir():
        if file.is_dir():
            shutil.rmtree(file)
        elif file.name not in TOKENIZER_FILES:
            file.unlink()


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether a tokenizer is among the files of a folder."""
    return not set(TOKENIZER_FILES).isdisjoint(names)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
