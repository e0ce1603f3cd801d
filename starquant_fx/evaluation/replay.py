"""A denoising step taken by a model from a given state: what it would unmask, and what its layers hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from starquant_fx.capture import capture
from starquant_fx.diffusion.filters import sample_tokens
from starquant_fx.errors import InputError
from starquant_fx.evaluation.alignment import Model
from starquant_fx.evaluation.taps import Tapped, layer_taps
from starquant_fx.logits import aligned_logits
from starquant_fx.model_facts import is_shifted, mask_token_of
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe

NOTHING = -1
"""Stands for no token."""
AS_IT_IS = Recipe("full precision", 16, 16, passes=())


class Seen(NamedTuple):
    """What one model does with a state.

    Attributes:
        hidden: [B, L, d] after each layer.
        attention: What each output projection receives.
        commits: [B, L] int64, the tokens it unmasks, NOTHING elsewhere.
    """

    hidden: list[Tensor]
    attention: list[Tensor]
    commits: Tensor


class Replay:
    """A model that takes given denoising steps instead of its own.

    Args:
        program: Its graph.
        shifted: As ``is_shifted`` says of the model.
    """

    def __init__(self, program: Program, shifted: bool) -> None:
        self.taps = layer_taps(program.graph)
        self._tapped = Tapped(program.module, self.taps)
        self._device = program.device
        self._shifted = shifted

    def at(self, ids: Tensor, candidates: Tensor, count: Tensor, confidence: str) -> Seen:
        """Takes one greedy step from a state.

        Args:
            ids: [B, L] int64.
            candidates: [B, L] bool, the positions that the sampler may unmask.
            count: [B] int64, how many it unmasks.
            confidence: What the sampler ranks by, as ``sample_tokens`` names it.

        Returns:
            What the model does.
        """
        ids, candidates = ids.to(self._device), candidates.to(self._device)
        logits, hidden, attention = self._tapped.states(ids)
        rows = aligned_logits(logits, self._shifted)[candidates]
        sureness, tokens = sample_tokens(rows, confidence=confidence)
        ranked = torch.full(ids.shape, -torch.inf, dtype=sureness.dtype, device=ids.device)
        ranked[candidates] = sureness
        proposed = torch.full_like(ids, NOTHING)
        proposed[candidates] = tokens
        commits = torch.full_like(ids, NOTHING)
        for row, wanted in enumerate(count.tolist()):
            chosen = ranked[row].topk(wanted).indices
            commits[row, chosen] = proposed[row, chosen]
        return Seen(hidden, attention, commits)


def replays(models: Mapping[str, Model]) -> dict[str, Replay]:
    """Makes replays of models: of a compiled one in its ``program``, of any other in a capture of it.

    Args:
        models: Name -> compiled model or ``nn.Module`` with a mask token.

    Returns:
        Name -> replay.

    Raises:
        InputError: The models differ in their number of layers.
        CaptureError: A model cannot be captured, or a layer has no hidden state.
    """
    found: dict[str, Replay] = {}
    for name, model in models.items():
        program = getattr(model, "program", None)
        if not isinstance(program, Program):
            assert isinstance(model, nn.Module)
            program = capture(model, AS_IT_IS, mask_token_id=mask_token_of(model))
        found[name] = Replay(program, is_shifted(model))
    layers = {name: len(replay.taps) for name, replay in found.items()}
    if len(set(layers.values())) != 1:
        raise InputError(
            "the models have different numbers of layers",
            where="models",
            expected="one model and what was made of it",
            got=", ".join(f"{name}: {count}" for name, count in layers.items()),
        )
    return found
