"""``starquant_fx.compile_folder``: from a model's folder to a packed checkpoint, whatever the model's size."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from starquant_fx.calibration.prepare import Calibration, check_kind, given_texts
from starquant_fx.checkpoint import checks
from starquant_fx.checkpoint.format import CHECKPOINT
from starquant_fx.checkpoint.writing import quantization
from starquant_fx.devices import making_float32, usable_device
from starquant_fx.diffusion.stepping import evaluating
from starquant_fx.errors import RecipeError
from starquant_fx.folders.writing import check_folder
from starquant_fx.lowering import choose_target
from starquant_fx.model_facts import chosen_mask_token
from starquant_fx.pass_manager import check_order
from starquant_fx.progress import working
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from starquant_fx.sampling.arguments import flag
from starquant_fx.streaming.finishing import Description, finish
from starquant_fx.streaming.memory import check_memory, forget_peak, parse_size
from starquant_fx.streaming.part import Progress, Run, all_written, check_progress
from starquant_fx.streaming.parts import Parts
from starquant_fx.streaming.place import discard, reserved
from starquant_fx.streaming.plan import check_tokenizer, surroundings
from starquant_fx.streaming.source import Source
from starquant_fx.streaming.states import calibration_states
from starquant_fx.streaming.work import PartRecord, Work, finished

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
        progress: Called after every part, also those that an earlier run did: its number from 1, how many there are,
            its record, and about how many seconds the parts after it take. Loading the result at the end is no part.

    Returns:
        The folder's path.

    Raises:
        StarQuantError: As ``compile`` and ``CompiledModel.save``.
        InputError: ``progress`` cannot be called.
        CheckpointError: The model's files changed meanwhile, another run is at work on the folder, or what an
            unfinished run left belongs to another call.
        ConfigError: The memory limit is no size, or too small.
    """
    begin = time.perf_counter()
    chosen = _recipe(recipe)
    check_kind(calibration)
    check_progress(progress)
    limit = None if memory_limit is None else parse_size(memory_limit)
    path = check_folder(folder, CHECKPOINT, True)
    done = finished(path)
    check_folder(path, CHECKPOINT, flag("force", force) or done)
    place = usable_device(device)
    resolved = choose_target(target, place)
    forget_peak()
    check_memory(limit, "starting")
    with reserved(path) as held:
        with working("reading the model"):
            source = Source(model)
        network, tokenizer = source.model, tokenizer or source.tokenizer
        architecture = checks.check_kind(network, network.config)
        published = checks.published_keys(network.config, network, architecture)
        mask_id = chosen_mask_token(mask_token_id, network, tokenizer)
        says = quantization(
            chosen, mask_id, checks.dtype_name(network), resolved, source.fingerprint
        )
        check_tokenizer(tokenizer, held)
        options = chosen.calibration
        given_texts(network, calibration, tokenizer, mask_id, options)
        parts = Parts.of(network, chosen, mask_id, place)
        names = [span.name for span in parts.spans]
        facts = {"parts": names, "config": published, "hub_id": source.hub_id}
        plan = {**dataclasses.asdict(says), **facts, **surroundings(calibration, tokenizer, place)}
        work = Work(held, len(names), json.loads(json.dumps(plan)))
        if done:
            discard(held)
            return path
        with evaluating(network):
            with making_float32():
                data = calibration_states(
                    work, source, calibration, tokenizer, mask_id, options, place, limit
                )
            run = Run(source, parts, data, work, resolved, place, limit)
            starting = time.perf_counter() - begin
            records = _compiled(run, progress)
            description = Description(published, says, tokenizer, limit, force, starting)
            with working("all parts are done; writing the checkpoint and loading it once"):
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
