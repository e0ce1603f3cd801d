"""Calibration states: sequences as a denoiser meets them, rolled out by the model itself, stratified by mask ratio.

A sequence starts as a text with a share of its tokens masked; the model then denoises it, most confident token first,
until a chosen smaller share is left. What is recorded therefore holds true tokens, the model's own and masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from starquant_fx.devices import Draws
from starquant_fx.errors import CalibrationError
from starquant_fx.logits import aligned_logits
from starquant_fx.progress import track

Denoiser = Callable[[Tensor], Any]
"""Token ids [B, L] to logits [B, L, V], or an object that has them."""
CHUNK = 16
OWN_STEPS = 16
"""Denoising steps of a generated calibration text."""


def rollout(
    model: Denoiser,
    texts: Tensor,
    mask_id: int,
    *,
    steps: int,
    seed: int,
    shifted: bool,
    strata: tuple[float, ...] = (),
    step_strata: tuple[float, ...] = (),
) -> Tensor:
    """Turns texts into denoising states whose mask ratios cover (0, 1), evenly or as the strata say.

    Args:
        model: The denoiser.
        texts: [N, L] token ids without masks.
        mask_id: Id of the mask token.
        steps: Denoising steps of the model between start and recorded state; 0 = only random masking.
        seed: Seed of ratios and masks.
        shifted: Whether the logits are shifted by one.
        strata: Shares of the sequences in equally wide buckets of the mask ratio; empty = one bucket.
        step_strata: Shares of the sequences recorded after 0, 1, .. ``steps`` steps; empty = all after ``steps``.

    Returns:
        [N, L]: without strata, sequence i has about (rank + 0.5) / N of its tokens masked.
    """
    draws = Draws(seed)
    count, length = texts.shape
    end = _mask_ratios((draws.permutation(count) + 0.5) / count, strata)
    taken = _steps_taken(count, steps, step_strata, draws)
    start = end + (1 - end) * draws.uniform(count) * (taken > 0)
    order = draws.uniform(count, length).argsort(1).argsort(1)
    ids = torch.where(order < (start * length).round()[:, None], mask_id, texts)
    for step in track(range(1, steps + 1), "rolling out calibration states", steps):
        share = (step / taken.clamp(min=1)).clamp(max=1)
        left = ((start + (end - start) * share) * length).round().long()
        for rows in torch.nonzero(taken >= step).flatten().split(CHUNK):
            logits = _logits(model, ids[rows], shifted)
            ids[rows] = _reveal(ids[rows], logits, left[rows], mask_id)
    return ids


def _steps_taken(count: int, steps: int, strata: tuple[float, ...], draws: Draws) -> Tensor:
    """Denoising steps of each sequence [N], in the shares that the strata say, whatever its mask ratio."""
    if not strata:
        return torch.full((count,), steps)
    even = (draws.permutation(count) + 0.5) / count
    ends = (torch.tensor(strata) / sum(strata)).cumsum(0)
    return torch.searchsorted(ends, even, right=True).clamp(max=len(strata) - 1)


def _mask_ratios(uniform: Tensor, strata: tuple[float, ...]) -> Tensor:
    """Bends even numbers in (0, 1) so that each of equally wide buckets gets its share of them."""
    if not strata:
        return uniform
    shares = torch.tensor(strata) / sum(strata)
    ends = shares.cumsum(0)
    bucket = torch.searchsorted(ends, uniform, right=True).clamp(max=len(strata) - 1)
    inside = (uniform - (ends - shares)[bucket]) / shares[bucket].clamp(min=1e-12)
    return (bucket + inside.clamp(0, 1)) / len(strata)


def _logits(model: Denoiser, ids: Tensor, shifted: bool) -> Tensor:
    """Logits float32 [B, L, V] of the tokens in place; -inf is how a model forbids a token."""
    logits = aligned_logits(model(ids), shifted).float()
    if bool((logits.isnan() | (logits == torch.inf)).any()):
        raise CalibrationError(
            "the model's logits on calibration texts are not finite",
            where="calibration",
            expected="numbers, or -inf",
            got="NaN or Inf",
            hint="check the model's weights and dtype",
        )
    return logits


def _reveal(ids: Tensor, logits: Tensor, left: Tensor, mask_id: int) -> Tensor:
    """Fills the most confident masked positions of [B, L] until ``left`` [B] masks are left."""
    logits[..., mask_id] = -torch.inf
    confidence, token = logits.softmax(-1).max(-1)
    masked = ids == mask_id
    rank = torch.where(masked, confidence, torch.inf).argsort(1).argsort(1)
    return torch.where(masked & (rank >= left[:, None]), token, ids)


def own_generations(
    model: Denoiser, count: int, length: int, mask_id: int, *, seed: int, shifted: bool
) -> Tensor:
    """Generates calibration texts from nothing: ancestral sampling at temperature 1, random order.

    Args:
        model: The denoiser.
        count: N.
        length: L.
        mask_id: Id of the mask token.
        seed: Seed of order and tokens.
        shifted: Whether the logits are shifted by one.

    Returns:
        [N, L] token ids without masks.
    """
    draws = Draws(seed)
    ids = torch.full((count, length), mask_id)
    order = draws.uniform(count, length).argsort(1).argsort(1)
    for step in track(range(OWN_STEPS), "generating calibration texts", OWN_STEPS):
        now = (order * OWN_STEPS // length) == step
        for rows in torch.arange(count).split(CHUNK):
            logits = _logits(model, ids[rows], shifted)
            logits[..., mask_id] = -torch.inf
            chosen = now[rows]
            drawn = draws.choice(logits[chosen].softmax(-1))
            ids[rows] = ids[rows].masked_scatter(chosen, drawn)
    return ids
