"""``starquant_fx.compile_folder``: from a model's folder to a packed checkpoint, whatever the model's size."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starquant_fx.calibration.data import CalibrationData
from starquant_fx.calibration.prepare import Calibration, prepare
from starquant_fx.checkpoint import checks
from starquant_fx.checkpoint.format import CHECKPOINT
from starquant_fx.checkpoint.writing import quantization
from starquant_fx.devices import making_float32, making_tensors_on, usable_device
from starquant_fx.diffusion.stepping import evaluating
from starquant_fx.errors import RecipeError
from starquant_fx.fingerprint import fingerprint
from starquant_fx.folders.writing import check_folder
from starquant_fx.lowering import choose_target
from starquant_fx.model_facts import chosen_mask_token, is_shifted
from starquant_fx.pass_manager import check_order
from starquant_fx.progress import working
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from starquant_fx.sampling.arguments import flag
from starquant_fx.streaming.finishing import Description, finish
from starquant_fx.streaming.memory import forget_peak, parse_size
from starquant_fx.streaming.part import Progress, Run, all_written
from starquant_fx.streaming.parts import Parts
from starquant_fx.streaming.source import Source
from starquant_fx.streaming.work import PartRecord, Work, discard, finished, opened
from starquant_fx.tensor_file import read_tensors, write_tensors

NOT_IN_PARTS = ("refine-sgat",)
"""Passes that learn through more than one block."""


def compile_folder(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    recipe: str | Recipe = "star-w4a4",
    *,
    calibration: Calibration = None,
    tokenizer: Any = None,
    target: str = "auto",
    device: str | torch.device | None = None,
    mask_token_id: int | None = None,
    memory_limit: str | int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Compiles a model block by block, straight from its files to a packed checkpoint.

    Each block is read, calibrated, fitted, folded, quantized, corrected and written before the next one is looked at,
    with the passes of ``compile``; the values that enter the next block wait in files. What is done is kept in
    ``FOLDER.unfinished`` beside the result: the same call goes on where an earlier one was stopped, even if it was
    killed, and the checkpoint is the same, byte for byte but for ``starquant_run.json``, which has the times.

    Args:
        model: ``llada-tiny`` or ``dream-tiny``, a folder, or a hub id of a LLaDA or Dream model.
        folder: Where the checkpoint goes; its parent must exist.
        recipe: As for ``compile``.
        calibration: As for ``compile``.
        tokenizer: For texts, and to be written beside the model; None = the model's.
        target: As for ``compile``; the checkpoint remembers it.
        device: Where blocks are computed; the CPU by default.
        mask_token_id: Overrides the configuration's.
        memory_limit: Resident memory of the process at most, such as ``8GiB``: fewer sites are fitted at once, and
            activations go to files. A block that takes more all the same ends the run, and what is done is kept.
        force: Whether a checkpoint that is there is replaced.
        progress: Called after every part.

    Returns:
        The folder's path.

    Raises:
        StarQuantError: As ``compile`` and ``CompiledModel.save``.
        CheckpointError: The model's files changed meanwhile, another run is at work on the folder, or what an
            unfinished run left belongs to another call.
        ConfigError: The memory limit is no size, or too small.
    """
    chosen = _recipe(recipe)
    limit = None if memory_limit is None else parse_size(memory_limit)
    path = check_folder(folder, CHECKPOINT, True)
    done = finished(path)
    check_folder(folder, CHECKPOINT, flag("force", force) or done)
    place = usable_device(device)
    resolved = choose_target(target, place)
    forget_peak()
    with working("reading the model"):
        source = Source(model)
    network, tokenizer = source.model, tokenizer or source.tokenizer
    architecture = checks.check_kind(network, network.config)
    published = checks.published_keys(network.config, network, architecture)
    mask_id = chosen_mask_token(mask_token_id, network, tokenizer)
    says = quantization(chosen, mask_id, checks.dtype_name(network), resolved, source.fingerprint)
    parts = Parts.of(network, chosen, mask_id)
    plan = {
        **dataclasses.asdict(says),
        "parts": [span.name for span in parts.spans],
        "config": published,
        "tokenizer": _tokenizer_described(tokenizer),
        "hub_id": source.hub_id,
        "calibration": _described(calibration),
        "device": str(place),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    with opened(path, len(parts.spans), json.loads(json.dumps(plan))) as work, evaluating(network):
        if done:
            discard(work.folder)
            return path
        with making_tensors_on(place), making_float32():
            data = _states(work, source, calibration, tokenizer, mask_id, chosen)
        run = Run(source, parts, data, work, resolved, place, limit)
        records = _compiled(run, progress)
        description = Description(published, says, tokenizer, limit, force)
        return finish(run, path, records, description)


def _recipe(recipe: str | Recipe) -> Recipe:
    """The recipe, if it can be applied block by block."""
    chosen = get_recipe(recipe)
    check_order(chosen.passes)
    for one in chosen.passes:
        if one.name in NOT_IN_PARTS:
            raise RecipeError(
                f"{one.name} does not go block by block",
                where=chosen.name,
                expected=f"a recipe without {', '.join(NOT_IN_PARTS)}",
                got=str(one),
                hint="compile the model whole, or leave the pass out",
            )
    return chosen


def _compiled(run: Run, progress: Progress | None) -> list[PartRecord]:
    """Compiles every part that is not done yet."""
    records: list[PartRecord] = []
    spent: list[float] = []
    for number in range(run.count):
        record = run.work.record(number)
        if record is None:
            record = run.compile(number, all_written(records))
        spent.append(sum(record.seconds.values()))
        records.append(record)
        if progress is not None:
            # Blocks are alike, but for the first, which has the embedding, and the head after them.
            usual = sorted(spent)[len(spent) // 2]
            progress(number + 1, run.count, record, usual * (run.count - number - 1))
    return records


def _states(
    work: Work,
    source: Source,
    calibration: Calibration,
    tokenizer: Any,
    mask_id: int | None,
    recipe: Recipe,
) -> CalibrationData:
    """The calibration states: those of the run's beginning, or new ones."""
    if work.states.is_file():
        held = read_tensors(work.states)
        options = recipe.calibration
        return CalibrationData(
            [held[name] for name in sorted(held)],
            max_tokens=options.max_tokens,
            seed=options.seed,
            shifted=is_shifted(source.model),
        )
    hooks = source.release_after_use()
    try:
        data = prepare(source.model, calibration, tokenizer, mask_id, recipe.calibration)
    finally:
        for hook in hooks:
            hook.remove()
    write_tensors(work.states, {f"{i:05d}": batch for i, batch in enumerate(data.batches)})
    return data


def _described(calibration: Calibration) -> str:
    """What tells one calibration from another."""
    if calibration is None:
        return "own generations"
    if isinstance(calibration, Tensor):
        return f"ids {fingerprint({'ids': calibration})}"
    text = json.dumps(calibration, default=str)
    return f"texts {hashlib.sha256(text.encode()).hexdigest()}"


def _tokenizer_described(tokenizer: Any) -> str | None:
    """What tells one tokenizer from another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = repr(tokenizer) if backend is None else backend.to_str()
    return None if tokenizer is None else hashlib.sha256(text.encode()).hexdigest()
