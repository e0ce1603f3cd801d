"""What the result of a run depends on beside the model and the recipe, and what it needs at its end."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starquant_fx.calibration.prepare import Calibration
from starquant_fx.checkpoint.writing import write_tokenizer
from starquant_fx.fingerprint import fingerprint
from starquant_fx.folders.workplace import hidden


def surroundings(
    calibration: Calibration, tokenizer: Any, device: torch.device
) -> dict[str, str | int | None]:
    """What tells one run on a model from another, JSON-ready."""
    return {
        "calibration": _calibration(calibration),
        "tokenizer": _tokenizer(tokenizer),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes a tokenizer once, as the end of the run will, and removes it again.

    Args:
        tokenizer: The model's, or None.
        folder: Where there is place.

    Raises:
        InputError: It is of a kind that cannot be written.
        OSError: Nothing can be written.
    """
    trial = hidden(folder, "tokenizer")
    try:
        trial.mkdir()
        write_tokenizer(trial, tokenizer)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _calibration(calibration: Calibration) -> str:
    if calibration is None:
        return "own generations"
    if isinstance(calibration, Tensor):
        return f"ids {fingerprint({'ids': calibration})}"
    text = json.dumps(calibration, default=str)
    return f"texts {hashlib.sha256(text.encode()).hexdigest()}"


def _tokenizer(tokenizer: Any) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = repr(tokenizer) if backend is None else backend.to_str()
    return None if tokenizer is None else hashlib.sha256(text.encode()).hexdigest()
