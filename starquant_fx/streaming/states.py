"""The calibration states of a run: made once, and kept in a file."""

from __future__ import annotations

from typing import Any

import torch

from starquant_fx.calibration.data import CalibrationData
from starquant_fx.calibration.prepare import Calibration, prepare
from starquant_fx.model_facts import is_shifted
from starquant_fx.recipe import CalibrationOptions
from starquant_fx.streaming import sealed
from starquant_fx.streaming.memory import check_memory
from starquant_fx.streaming.source import Source
from starquant_fx.streaming.work import Work
from starquant_fx.tensor_file import read_tensors, write_tensors

FILE = "states.safetensors"


def calibration_states(
    work: Work,
    source: Source,
    calibration: Calibration,
    tokenizer: Any,
    mask_token_id: int | None,
    options: CalibrationOptions,
    device: torch.device,
    memory_limit: int | None,
) -> CalibrationData:
    """The states of the run's beginning, or new ones; runs of the whole model are made on the CPU, where it is.

    Args:
        work: The run's folder.
        source: The model.
        calibration: As for ``compile_folder``.
        tokenizer: For texts.
        mask_token_id: The model's.
        options: How many states, how long, which seed.
        device: Where the states go.
        memory_limit: Bytes of resident memory at most; None = any number.

    Returns:
        The states.

    Raises:
        StarQuantError: As ``prepare``.
        ConfigError: The model's runs take more memory than they may.
        CheckpointError: What was kept is damaged.
    """
    if not work.states.is_dir():
        with source.released_after_use(lambda: check_memory(memory_limit, "a run of the model")):
            made = prepare(source.model, calibration, tokenizer, mask_token_id, options)
        check_memory(memory_limit, "calibration")
        with sealed.sealing(work.states) as folder:
            write_tensors(folder / FILE, {f"{i:05d}": b for i, b in enumerate(made.batches)})
    sealed.check(work.states)
    held = read_tensors(work.states / FILE, device)
    return CalibrationData(
        [held[name] for name in sorted(held)],
        max_tokens=options.max_tokens,
        seed=options.seed,
        shifted=is_shifted(source.model),
    )
