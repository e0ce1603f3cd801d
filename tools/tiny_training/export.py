"""Writes the folder that ships: published-layout config, bfloat16 weights, tokenizer, model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from starquant_fx.files import write_atomically
from starquant_fx.model_facts import is_shifted
from tiny_training.card import Figures, Remarks, model_card
from tiny_training.corpus import Document, summarise
from tiny_training.objective import ACCURACY_RATIOS, masked_accuracy, nelbo
from tiny_training.plot import curve_svg
from tiny_training.shapes import build
from tiny_training.state import (
    CURVE_FILE,
    Progress,
    Settings,
    read_curve,
    save_tensors,
)


@dataclass(frozen=True)
class HeldOut:
    """Windows to evaluate on.

    Attributes:
        validation: [N, L] token ids.
        test: [N, L] token ids.
    """

    validation: Tensor
    test: Tensor


def rounded_model(settings: Settings, weights: dict[str, Tensor]) -> nn.Module:
    """Builds the model with its weights rounded to bfloat16, as shipped, computing in float32."""
    model = build(settings.arch, settings.config)
    model.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in weights.items()})
    return model.eval()


def measure(model: nn.Module, settings: Settings, windows: Tensor) -> Figures:
    """Measures NELBO and masked accuracy on the windows of a split."""
    mask_id, shifted = int(settings.config["mask_token_id"]), is_shifted(model)
    accuracy = {r: masked_accuracy(model, windows, mask_id, shifted, r) for r in ACCURACY_RATIOS}
    return Figures(nelbo(model, windows, mask_id, shifted), accuracy, *windows.shape)


def export(
    settings: Settings,
    weights: dict[str, Tensor],
    progress: Progress,
    tokenizer: PreTrainedTokenizerFast,
    held_out: HeldOut,
    documents: Sequence[Document],
    destination: Path,
    remarks: Remarks,
) -> tuple[Figures, Figures]:
    """Evaluates the weights and writes the shipped folder; the old one stays until the new is whole.

    Args:
        settings: The run's settings.
        weights: Weights by published name.
        progress: How far they were trained.
        tokenizer: The run's tokenizer.
        held_out: Validation and test windows.
        documents: The corpus.
        destination: The folder to write.
        remarks: What the card says that neither the run nor the corpus tells.

    Returns:
        The figures on validation and test.
    """
    model = rounded_model(settings, weights)
    validation = measure(model, settings, held_out.validation)
    test = measure(model, settings, held_out.test)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as temporary:
        folder = Path(temporary) / destination.name
        tokenizer.save_pretrained(folder)
        rounded = {k: v.to(torch.bfloat16) for k, v in weights.items()}
        save_tensors(folder / "model.safetensors", rounded, {"format": "pt"})
        write_atomically(folder / "config.json", json.dumps(settings.config, indent=2) + "\n")
        parameters = sum(v.numel() for v in weights.values())
        card = model_card(
            destination.name,
            settings,
            parameters,
            progress,
            {"validation": validation, "test": test},
            summarise(documents),
            remarks,
        )
        write_atomically(folder / "README.md", card)
        if destination.exists():
            shutil.rmtree(destination)
        folder.rename(destination)
    return validation, test


def export_curve(run: Path, folder: Path, name: str, earlier: Path | None = None) -> None:
    """Writes a run's training curve and draws it: ``<name>.jsonl`` and ``<name>.svg``.

    Args:
        run: The run.
        folder: Where to write.
        name: Name of the model.
        earlier: Curve of the run whose weights this one started from; steps, tokens and seconds go on from its end.
    """
    rows = read_curve(run / CURVE_FILE)
    if earlier is not None:
        before = read_curve(earlier)
        last = before[-1]
        rows = before + [
            {**row, **{key: row[key] + last[key] for key in ("step", "tokens", "seconds")}}
            for row in rows
        ]
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / f"{name}.jsonl", lines)
    write_atomically(folder / f"{name}.svg", curve_svg(rows, name))
