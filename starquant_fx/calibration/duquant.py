"""DuQuant's rotations and permutation (Lin et al. 2024, "DuQuant", sections 3.2 and 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.basis import random_orthogonal
from starquant_fx.calibration.orthogonal import orthonormalize
from starquant_fx.devices import Draws
from starquant_fx.hadamard import hadamard

TOKENS = 256
"""Tokens that the greedy search turns: those with the largest entries."""


def outlier_rotation(tokens: Tensor, block: int, steps: int, draws: Draws) -> Tensor:
    """Greedy block-diagonal rotation that lowers the largest entry of every block.

    Each step spreads the block's largest channel evenly over the block, by a rotation whose row of that channel is flat
    and whose other rows are random; the product of the steps up to the smallest maximum is kept.

    Args:
        tokens: [N, d].
        block: g, divides d.
        steps: Greedy steps.
        draws: Source of the random rows.

    Returns:
        [d / g, g, g] float32, orthogonal; applied as ``x_b R_b``.
    """
    peaks = tokens.abs().amax(-1).argsort(descending=True)[:TOKENS]
    x = tokens[peaks].unflatten(-1, (-1, block)).transpose(0, 1)  # [K, T, g]
    count = x.shape[0]
    blocks = torch.arange(count)
    total = torch.eye(block).repeat(count, 1, 1)
    best, best_peak = total.clone(), x.abs().amax((1, 2))
    flat = hadamard(block)
    for _ in range(steps if block > 1 else 0):
        rest = random_orthogonal((block - 1, block - 1), draws)
        step = torch.cat([flat[:1], rest @ flat[1:]])
        turn = step.repeat(count, 1, 1)
        loudest = x.abs().amax(1).argmax(-1)
        turn[blocks, 0], turn[blocks, loudest] = turn[blocks, loudest], turn[blocks, 0].clone()
        x, total = x @ turn, total @ turn
        peak = x.abs().amax((1, 2))
        better = peak < best_peak
        best[better], best_peak[better] = total[better], peak[better]
    return orthonormalize(best)  # products of many steps drift from orthogonality


def zigzag(tokens: Tensor, block: int) -> Tensor:
    """The order of channels that deals the loudest ones out to the blocks to and fro.

    Args:
        tokens: [N, d].
        block: g, divides d.

    Returns:
        [d] int64: position i takes channel ``order[i]``.
    """
    features = tokens.shape[-1]
    count = features // block
    ranked = tokens.abs().amax(0).argsort(descending=True).unflatten(0, (block, count))
    ranked[1::2] = ranked[1::2].flip(1)
    return ranked.T.flatten()
