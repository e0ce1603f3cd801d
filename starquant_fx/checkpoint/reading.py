"""Loading a packed checkpoint: the model is built from its configuration without weights, and the tensors are bound."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from starquant_fx.artifact_checks import compare_headers
from starquant_fx.capture import TRACING, capture
from starquant_fx.checkpoint.contained import checkpoint_folder, own_file
from starquant_fx.checkpoint.format import (
    AGAIN,
    DTYPES,
    REPORT_FILE,
    Quantization,
    is_packed,
    parse_quantization,
    read_index,
    read_report,
)
from starquant_fx.checkpoint.shards import Shards, check_files
from starquant_fx.compiled import CompiledModel, bind_tensors, spare_tensors
from starquant_fx.devices import usable_device
from starquant_fx.errors import CheckpointError, ConfigError, StarQuantError, cause
from starquant_fx.folders.workplace import recover
from starquant_fx.lowering import AUTO, choose_target, runs_on
from starquant_fx.model_facts import check_mask_token
from starquant_fx.models.folder import CONFIG_FILE, QUANTIZATION, read_json, read_published
from starquant_fx.models.published import published_config
from starquant_fx.models.registry import ARCHITECTURES
from starquant_fx.models.safetensors_files import INDEX_FILE
from starquant_fx.models.weightless import fake_of
from starquant_fx.pass_manager import Observer, check_observer, run_passes
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe
from starquant_fx.sampling.arguments import flag


def load(
    folder: str | os.PathLike[str],
    *,
    target: str | None = None,
    device: str | torch.device | None = None,
    check: bool = True,
    revision: str | None = None,
    observe: Observer | None = None,
) -> CompiledModel:
    """Loads a packed checkpoint that ``CompiledModel.save`` wrote.

    The configuration is traced without weights, the recipe's passes are applied to the graph, and the tensors are bound
    to it by name: the logits are those of the saved model, bit for bit, on the same target. On the CPU the tensors stay
    mapped to their files: do not overwrite these in place while the model is in use (saving replaces them, which is
    harmless). No code is run from the folder.

    Args:
        folder: The checkpoint, or a hub id ``owner/name``, which is downloaded first; no code is.
        target: As for ``compile``; None = the one that it was saved with, or what runs here.
        device: Where the model goes; the CPU by default.
        check: Whether to compare the hashes in the index, which reads every file once. They find damage, not forgery.
        revision: Branch, tag or commit, for a hub id only.
        observe: Sees the graph as for ``compile``: with ``capture``, and after every pass with its text form.

    Returns:
        The compiled model.

    Raises:
        CheckpointError: The folder is none, cannot be downloaded, is of another version, or damaged; or a file leads
            outside of it.
        ConfigError: Its configuration is missing or describes no model, or this machine has no such device.
        InputError: ``check`` or ``observe`` is of another kind.
        LoweringError: There is no such target.
    """
    check = flag("check", check)
    check_observer(observe)
    device = usable_device(device)
    if target is not None:
        choose_target(target, device)
    path = checkpoint_folder(folder, revision)
    facts, recipe, published = quantized_configuration(path)
    own_file(path, INDEX_FILE)
    index = read_index(path)
    if check:
        check_files(path, index)
    own_file(path, REPORT_FILE)
    report = read_report(path)
    shards = Shards(path, index, check)
    with TRACING:  # other threads wait: torch traces one model at a time
        model = _model(path, facts, published, len(shards.headers), device)
        program = _program(path, recipe, facts.mask_token_id, model, observe)
        spare = spare_tensors(model, program)
        compare_headers(
            shards.headers,
            {**spare, **program.tensors()},
            str(path),
            "the checkpoint does not hold what its recipe makes of its configuration",
            f"it was written by starquant_fx {facts.package_version}; {AGAIN}",
        )
        tensors = {name: shards.read(name, device) for name in shards.headers}
        index.check_size(sum(tensor.nbytes for tensor in tensors.values()), path)
        bind_tensors(program, tensors)
        program.stages.clear()
        asked = target or (facts.target if runs_on(facts.target, device) else AUTO)
        report = dataclasses.replace(report, target=choose_target(asked, device))
        kept = {name: tensors[name] for name in spare}
        return CompiledModel(model, program, report, kept, model, facts.fingerprint, asked)


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder's ``config.json`` says that it is a packed checkpoint, sound or not.

    One that a killed process was just putting there is made complete first.
    """
    try:
        path = Path(folder).resolve()
        recover(path, CONFIG_FILE)
        return path.is_dir() and is_packed(read_json(path, CONFIG_FILE, ConfigError))
    except (StarQuantError, OSError, ValueError):
        return False


def quantized_configuration(folder: Path) -> tuple[Quantization, Recipe, dict[str, Any]]:
    """What a checkpoint's ``config.json`` says of the quantization and the recipe, and of the model.

    Args:
        folder: The checkpoint.

    Raises:
        ConfigError: It is missing, or no configuration.
        CheckpointError: It is a link, or what it says of the quantization is damaged.
    """
    own_file(folder, CONFIG_FILE)
    return quantization_in(read_published(folder), folder)


def quantization_in(
    published: dict[str, Any], folder: Path
) -> tuple[Quantization, Recipe, dict[str, Any]]:
    """As ``quantized_configuration``, of the content of ``config.json``, which stays as it is."""
    published = dict(published)
    if not published["architectures"]:  # as where the file does not say them
        del published["architectures"]
    try:
        facts = parse_quantization(published.pop(QUANTIZATION, None))
        return facts, facts.parsed_recipe(), published
    except CheckpointError as error:
        error.where = f"{folder / CONFIG_FILE}: {error.where}"
        raise


def _model(
    folder: Path,
    facts: Quantization,
    published: dict[str, Any],
    tensors: int,
    device: torch.device,
) -> nn.Module:
    """The model without weights."""
    where = str(folder / CONFIG_FILE)
    architecture = ARCHITECTURES.get(published["model_type"])
    if architecture is None:
        raise ConfigError(
            "a model of this type cannot be built from its configuration",
            where=where,
            expected=f"model_type {' or '.join(ARCHITECTURES)}",
            got=repr(published["model_type"]),
            hint=AGAIN,
        )
    sizes = published_config(architecture, published, folder)
    depth = getattr(sizes, architecture.depth)
    try:
        if depth > tensors:
            raise ValueError(f"{depth} layers and {tensors} tensors")
        return fake_of(architecture, sizes, DTYPES[facts.dtype], device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            "the sizes in the configuration describe no model that can be built",
            where=where,
            expected="sizes that fit the tensors of the folder",
            got=cause(error),
            hint=AGAIN,
        ) from error


def _program(
    folder: Path,
    recipe: Recipe,
    mask_token_id: int | None,
    model: nn.Module,
    observe: Observer | None,
) -> Program:
    """The rewritten program without weights."""
    try:
        mask_id = check_mask_token(mask_token_id, model)
        captured = capture(model, recipe, mask_token_id=mask_id)
        return run_passes(captured, recipe.passes, observe)
    except StarQuantError as error:
        raise CheckpointError(
            "the recipe does not apply to the model",
            where=f"{folder / CONFIG_FILE}: {QUANTIZATION}",
            expected="the recipe and mask token that the model was compiled with",
            got=cause(error),
            hint=AGAIN,
        ) from error
