"""What quantization changes along a generation: commits, hidden states and attention outputs, step by step.

Full precision generates once. Every model then meets the same states, so that what is seen at a step is that step's own
error; and every model generates by itself, which shows what the steps' errors add up to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from starquant_fx.diffusion import generate
from starquant_fx.evaluation.agreement import require_reference
from starquant_fx.evaluation.alignment import Model
from starquant_fx.evaluation.replay import NOTHING, Seen, replays
from starquant_fx.progress import track
from starquant_fx.sampling.arguments import sampler_arguments, token_id
from starquant_fx.sampling.rules import CONFIDENCE_OF


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One model against the reference, T denoising steps of B prompts, in a model of K layers.

    Attributes:
        committed: [T, B] int64, tokens that the reference unmasks at each step.
        positions: [T, B] int64, how many of these the model unmasks too at this step, given the same state.
        tokens: [T, B] int64, how many of these it unmasks with the same token.
        hidden: [T, K, B] float64, ||h' - h||² / ||h||² of the hidden states after each layer, given the same state.
        attention: [T, K, B] float64, the same of the attention output that each output projection receives.
        apart: [T, B] float64, share of the new positions that hold something else after each step when the model
            generates by itself from the same prompt.
    """

    committed: Tensor
    positions: Tensor
    tokens: Tensor
    hidden: Tensor
    attention: Tensor
    apart: Tensor

    @property
    def flips(self) -> Tensor:
        """[B] float64, share of all committed tokens whose position or token is another one."""
        return 1 - self.tokens.sum(0).double() / self.committed.sum(0)


def trajectories(
    models: Mapping[str, Model],
    prompts: Tensor,
    reference: str = "full precision",
    *,
    new_tokens: int = 64,
    steps: int = 32,
) -> dict[str, Trajectory]:
    """Follows greedy generations of the reference and compares the other models with it.

    Args:
        models: Name -> denoiser, the reference among them. A compiled model is measured in its ``program``'s graph; any
            other is captured, so it must be an ``nn.Module``.
        prompts: [B, P] token ids, no padding.
        reference: Name of the reference.
        new_tokens: Tokens to generate.
        steps: Denoising steps.

    Returns:
        Name -> trajectory, without the reference.

    Raises:
        InputError: Prompts or numbers do not fit the models.
        CaptureError: A model cannot be captured, or its layers have no hidden states.
    """
    require_reference(models, reference)
    graphs = replays(models)
    full = models[reference]
    arguments = sampler_arguments(full, new_tokens, steps)
    generated = {
        name: _generated(model, prompts, arguments)
        for name, model in track(models.items(), "generating", len(models))
    }
    after, candidates = generated[reference]
    first = after[:1].clone()
    first[:, :, prompts.shape[1] :] = token_id(full, "mask_token_id", None, "mask_token_id")
    before = torch.cat([first, after[:-1]])
    committed = (after != before).sum(-1)
    confidence = CONFIDENCE_OF[arguments.get("alg", "maskgit_plus")]
    measured: dict[str, list[tuple[Tensor, ...]]] = {
        name: [] for name in models if name != reference
    }
    for ids, open_at, count in track(
        zip(before, candidates, committed, strict=True), "following the trajectory", len(before)
    ):
        seen = {name: graph.at(ids, open_at, count, confidence) for name, graph in graphs.items()}
        for name, found in measured.items():
            found.append(_differences(seen[reference], seen[name]))
    new = slice(prompts.shape[1], None)
    finished: dict[str, Trajectory] = {}
    for name, found in measured.items():
        positions, tokens, hidden, attention = (
            torch.stack(parts) for parts in zip(*found, strict=True)
        )
        apart = (generated[name][0] != after)[:, :, new].double().mean(-1)
        finished[name] = Trajectory(committed, positions, tokens, hidden, attention, apart)
    return finished


def _generated(model: Model, prompts: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Generates; returns the ids after each step and which positions were candidates at it, both [T, B, L]."""
    result = generate(model, prompts, return_dict=True, progress=False, **arguments)
    assert result.states is not None
    assert result.confidences is not None
    return result.states.cpu(), (result.confidences > -torch.inf).cpu()


def _differences(full: Seen, given: Seen) -> tuple[Tensor, ...]:
    """Compares what two models do with one state: positions [B], tokens [B], hidden [K, B], attention [K, B]."""
    both = (full.commits != NOTHING) & (given.commits != NOTHING)
    same = both & (full.commits == given.commits)
    found = (
        both.sum(1),
        same.sum(1),
        torch.stack([_error(*pair) for pair in zip(given.hidden, full.hidden, strict=True)]),
        torch.stack([_error(*pair) for pair in zip(given.attention, full.attention, strict=True)]),
    )
    return tuple(values.cpu() for values in found)


def _error(given: Tensor, full: Tensor) -> Tensor:
    """||x' - x||² / ||x||² of each row of [B, ...]: [B] float64."""
    full, given = full.flatten(1).double(), given.flatten(1).double()
    return (given - full).square().sum(1) / full.square().sum(1).clamp(min=1e-30)
