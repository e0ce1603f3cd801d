"""Access to tests/goldens: data made with the published LLaDA and Dream code."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from starquant_fx.models.dream import DreamConfig, DreamModel
from starquant_fx.models.llada import LladaConfig, LladaModel

FOLDER = Path(__file__).parent / "goldens"


@functools.cache
def index(name: str) -> dict[str, Any]:
    """The content of golden.json of 'llada' or 'dream'."""
    loaded: dict[str, Any] = json.loads((FOLDER / name / "golden.json").read_text())
    return loaded


@functools.cache
def tensors(name: str) -> dict[str, Tensor]:
    """All recorded tensors; callers must not write into them."""
    return load_file(FOLDER / name / "golden.safetensors")


@functools.cache
def model(name: str) -> nn.Module:
    """The tiny model whose outputs were recorded."""
    config = json.loads((FOLDER / name / "config.json").read_text())
    built: nn.Module = (
        LladaModel(LladaConfig.from_dict(config))
        if name == "llada"
        else DreamModel(DreamConfig.from_dict(config))
    )
    built.load_state_dict(load_file(FOLDER / name / "model.safetensors"), strict=True)
    return built.eval()


def case(name: str, which: str) -> dict[str, Any]:
    """One generation case by its name."""
    found: dict[str, Any] = next(c for c in index(name)["generate"] if c["name"] == which)
    return found


def case_names(name: str) -> list[str]:
    """The names of all generation cases."""
    return [c["name"] for c in index(name)["generate"]]


class Replay:
    """A model (no nn.Module) that answers with the recorded logits of one generation case."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.calls = 0

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        answer = self.logits[self.calls].clone()
        self.calls += 1
        assert answer.shape[:2] == input_ids.shape
        return answer


def seed(generation_case: dict[str, Any]) -> torch.Generator:
    """A generator in the state that torch's global one had when the case was recorded."""
    return torch.Generator().manual_seed(generation_case["manual_seed"] or 0)
