"""GPTQ: round a weight column by column, each error made up for by the columns that follow."""

from __future__ import annotations

from typing import NamedTuple

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


def cross_moment(aim: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """``A^T diag(c) X / sum(c)`` [d, d] float64 of the tokens aimed at [N, d] and those that are read [N, d]."""
    c = weights.double()
    return aim.double().T @ (tokens.double() * c[:, None]) / c.sum().clamp(min=1e-30)


class Moments(NamedTuple):
    """Of a site's tokens.

    Attributes:
        second: H [d, d] of the tokens that its linears read.
        cross: Cross moment with the tokens that the outputs are aimed at; None = the same tokens.
    """

    second: Tensor
    cross: Tensor | None


def aimed_weight(weight: Tensor, moments: Moments, damping: float) -> Tensor:
    """The weight W' that minimises ``||X W'^T - A W^T||^2``, damped towards W.

    Args:
        weight: W [n, d].
        moments: With a cross moment.
        damping: Share of the mean diagonal of H that keeps W' at W.

    Returns:
        [n, d] float32.
    """
    second, cross = moments
    assert cross is not None
    delta = damping * second.diagonal().mean() * torch.eye(second.shape[0], dtype=second.dtype)
    aimed = torch.linalg.solve(second + delta, weight.double() @ (cross + delta), left=False)
    return aimed.float()


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
