"""GPTQ: round a weight column by column, each error made up for by the columns that follow."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Columns between two updates of all the columns that follow."""


def hessian(tokens: Tensor, weights: Tensor | None = None) -> Tensor:
    """``X^T diag(c) X / sum(c)`` of a site's tokens.

    Args:
        tokens: [N, d] as the integer GEMM will see them: transformed and gated.
        weights: [N] importance c of each token (CGQ's certainty), or None: all alike.

    Returns:
        [d, d] float64.
    """
    wide = tokens.double()
    if weights is None:
        return wide.T @ wide / max(tokens.shape[0], 1)
    c = weights.double()
    return wide.T @ (wide * c[:, None]) / c.sum().clamp(min=1e-30)


def gptq(
    weight: Tensor, second: Tensor, scale: Tensor, bits: int, damping: float, order: bool
) -> Tensor:
    """Chooses codes that minimise ``tr((W - sC) H (W - sC)^T)`` greedily (Frantar et al. 2023, "GPTQ", algorithm 1).

    Args:
        weight: [n, d].
        second: H [d, d], symmetric positive semidefinite.
        scale: [n] step of each output channel, fixed.
        bits: 2..8.
        damping: Share of the mean diagonal of H that is added to its diagonal.
        order: Columns with the largest diagonal first, instead of from left to right.

    Returns:
        Codes int8 [n, d] in -2^(bits - 1) .. 2^(bits - 1) - 1.
    """
    half = 2 ** (bits - 1)
    diagonal = second.diagonal()
    turn = diagonal.argsort(descending=True) if order else torch.arange(second.shape[0])
    left = weight.double()[:, turn]
    step = scale.double()
    upper = _inverse_root(second[turn][:, turn], damping)
    codes = torch.empty_like(left)
    features = weight.shape[1]
    for start in range(0, features, BLOCK):
        stop = min(start + BLOCK, features)
        block, factor = left[:, start:stop].clone(), upper[start:stop, start:stop]
        errors = torch.empty_like(block)
        for k in range(stop - start):
            column = block[:, k]
            code = (column / step).round().clamp(-half, half - 1)
            error = (column - code * step) / factor[k, k]
            block[:, k:] -= error[:, None] * factor[k, k:]
            codes[:, start + k], errors[:, k] = code, error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    out = torch.empty_like(codes)
    out[:, turn] = codes
    return out.to(torch.int8)


def _inverse_root(second: Tensor, damping: float) -> Tensor:
    """Upper triangular U with ``U^T U = (H + delta I)^-1``; channels that never occur get a diagonal of one."""
    diagonal = second.diagonal()
    dead = diagonal <= 0
    damped = second + torch.diag(damping * diagonal.mean() + dead.double())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
