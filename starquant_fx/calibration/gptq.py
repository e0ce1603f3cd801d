"""GPTQ: round a weight column by column, each error made up for by the columns that follow."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

BLOCK = 64
"""Columns between two updates of all the columns that follow."""
SQUARE = 1024
"""Rows and columns of a triangular matrix that are inverted at once."""


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


@dataclasses.dataclass(frozen=True)
class Feedback:
    """How the error of each column is made up for by those after it; the same for all linears of a site.

    Attributes:
        turn: [d] the order of the columns.
        upper: [d, d] float64, upper triangular U with ``U^T U = (H + delta I)^-1`` in that order.
    """

    turn: Tensor
    upper: Tensor

    @classmethod
    def of(cls, second: Tensor, damping: float, order: bool) -> Feedback:
        """Solves for the feedback; few matrices of this size are in memory at once.

        Args:
            second: H [d, d], symmetric positive semidefinite.
            damping: Share of the mean diagonal of H that is added to its diagonal.
            order: Columns with the largest diagonal first, instead of from left to right.

        Returns:
            The feedback; channels that never occur have a diagonal of one.
        """
        diagonal = second.diagonal()
        turn = diagonal.argsort(descending=True) if order else torch.arange(second.shape[0])
        added = damping * diagonal.mean() + (diagonal <= 0).double()
        # With J the reversal and J H J = L L^T, H^-1 is U^T U for the upper triangular U = J L^-1 J.
        back = turn.flip(0)
        matrix = second[back[:, None], back]
        del second, diagonal
        matrix.diagonal().add_(added[back])
        root = torch.linalg.cholesky(matrix)
        del matrix
        _invert(root)
        return cls(turn, root.flip(0, 1))


def _invert(lower: Tensor) -> None:
    """Inverts a lower triangular matrix in its place, block by block."""
    starts = range(0, len(lower), SQUARE)
    for start in starts:
        rows = slice(start, start + SQUARE)
        square = lower[rows, rows]
        identity = torch.eye(len(square), dtype=lower.dtype)
        square.copy_(torch.linalg.solve_triangular(square, identity, upper=False))
        for begin in range(0, start, SQUARE):
            columns = slice(begin, begin + SQUARE)
            made = lower[rows, begin:start] @ lower[begin:start, columns]
            lower[rows, columns] = (square @ made).neg_()


def gptq(weight: Tensor, feedback: Feedback, scale: Tensor, bits: int) -> Tensor:
    """Chooses codes that minimise ``tr((W - sC) H (W - sC)^T)`` greedily (Frantar et al. 2023, "GPTQ", algorithm 1).

    Args:
        weight: [n, d].
        feedback: Of the second moments H of the site's tokens.
        scale: [n] step of each output channel, fixed.
        bits: 2..8.

    Returns:
        Codes int8 [n, d] in -2^(bits - 1) .. 2^(bits - 1) - 1.
    """
    half = 2 ** (bits - 1)
    turn, upper = feedback.turn, feedback.upper
    step = scale.double()
    # Columns of the weight are rows here: each is read and written in one piece.
    left = weight.T[turn].double()
    codes = torch.empty(left.shape, dtype=torch.int8)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        block, factor = left[start:stop], upper[start:stop, start:stop]
        errors = torch.empty_like(block)
        for k in range(stop - start):
            column = block[k]
            code = (column / step).round_().clamp_(-half, half - 1)
            codes[turn[start + k]] = code
            errors[k] = (column - code.mul_(step)).div_(factor[k, k])
            block[k + 1 :].addr_(factor[k, k + 1 :], errors[k], alpha=-1)
        left[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return codes.T.contiguous()
