"""GPTQ: round a weight column by column, each error made up for by the columns that follow."""

from __future__ import annotations

import dataclasses
from typing import Protocol

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


class Feedback(Protocol):
    """How the errors of columns are made up for by those after them; the same for all linears of a site.

    Attributes:
        turn: [d] the order of the columns.
    """

    @property
    def turn(self) -> Tensor: ...  # noqa: D102

    def diagonal_block(self, columns: slice) -> Tensor:
        """[m, m] upper triangular: the rows and columns of U with ``U^T U = (H + delta I)^-1`` in that order."""
        ...

    def start(self, outputs: int) -> Made:
        """What is made up for so far, for a weight of so many rows."""
        ...


class Made(Protocol):
    """What the columns of one weight owe each other."""

    def enter(self, left: Tensor, columns: slice) -> Tensor:
        """Some columns of the weight as they are to be rounded: [m, n], which may be written into."""
        ...

    def leave(self, left: Tensor, columns: slice, errors: Tensor, rounded: Tensor) -> None:
        """Hands the errors [m, n] of rounded columns on, in units of the diagonal and as they are."""
        ...


@dataclasses.dataclass(frozen=True)
class DenseFeedback:
    """The feedback as a matrix of channels.

    Attributes:
        turn: [d] the order of the columns.
        upper: [d, d] float64, U.
    """

    turn: Tensor
    upper: Tensor

    @classmethod
    def of(cls, second: Tensor, damping: float, order: bool) -> DenseFeedback:
        """Solves for the feedback; few matrices of this size are in memory at once.

        Args:
            second: H [d, d], symmetric positive semidefinite.
            damping: Share of the mean diagonal of H that is added to its diagonal.
            order: Columns with the largest diagonal first, instead of from left to right.

        Returns:
            The feedback; channels that never occur have a diagonal of one.
        """
        diagonal = second.diagonal()
        turn = _turn(diagonal, order)
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

    def diagonal_block(self, columns: slice) -> Tensor:
        """See ``Feedback``."""
        return self.upper[columns, columns]

    def start(self, outputs: int) -> Made:
        """See ``Feedback``."""
        return _DenseMade(self.upper)


@dataclasses.dataclass(frozen=True)
class _DenseMade:
    upper: Tensor

    def enter(self, left: Tensor, columns: slice) -> Tensor:
        return left[columns]

    def leave(self, left: Tensor, columns: slice, errors: Tensor, rounded: Tensor) -> None:
        left[columns.stop :].addmm_(self.upper[columns, columns.stop :].T, errors, alpha=-1)


@dataclasses.dataclass(frozen=True)
class TokenFeedback:
    """The feedback in the space of the tokens, for few of them: exactly the same, without a matrix of channels.

    With H = X^T X, the columns k.. that are left make up for the outputs ``E = sum_j<k x_j e_j`` that the errors e_j
    of the weights cost so far by ``x_k^T K_k^-1 E`` with ``K_k = delta I + sum_j>=k x_j x_j^T`` (Woodbury), and the
    Hessian of a block B, once all columns behind it have answered, is ``delta (I + X_B^T K^-1 X_B)`` with the K of
    what is behind it.

    Attributes:
        turn: [d] the order of the columns.
        tokens: X [N, d] float64 in that order.
        delta: What is added to the diagonal.
        after: [blocks + 1, N, N] lower Cholesky factors of K at the start of every block, and at the end.
    """

    turn: Tensor
    tokens: Tensor
    delta: float
    after: list[Tensor]

    @classmethod
    def of(
        cls, tokens: Tensor, weights: Tensor | None, damping: float, order: bool
    ) -> TokenFeedback:
        """Solves for the feedback.

        Args:
            tokens: [N, d].
            weights: As for ``hessian``.
            damping: As for ``DenseFeedback.of``.
            order: As for ``DenseFeedback.of``.
        """
        count, features = tokens.shape
        c = torch.ones(count) if weights is None else weights
        c = c.double() / c.double().sum().clamp(min=1e-30)
        x = tokens.double() * c.sqrt()[:, None]
        diagonal = x.pow(2).sum(0)
        turn = _turn(diagonal, order)
        x = x[:, turn]
        delta = float(damping * diagonal.mean()) or 1.0  # nothing occurs: any will do
        matrix = delta * torch.eye(count, dtype=torch.float64)
        after = [torch.linalg.cholesky(matrix)]
        for start in reversed(range(0, features, BLOCK)):
            columns = x[:, start : start + BLOCK]
            matrix = matrix + columns @ columns.T
            after.append(torch.linalg.cholesky(matrix))
        return cls(turn, x, delta, after[::-1])

    def diagonal_block(self, columns: slice) -> Tensor:
        """See ``Feedback``; a channel that never occurs stands alone, whatever its diagonal."""
        x = self.tokens[:, columns]
        root = self.after[columns.start // BLOCK + 1]
        half = torch.linalg.solve_triangular(root, x, upper=False)
        block = self.delta * (torch.eye(x.shape[1], dtype=torch.float64) + half.T @ half)
        root = torch.linalg.cholesky(block.flip(0, 1))
        _invert(root)
        return root.flip(0, 1)

    def start(self, outputs: int) -> Made:
        """See ``Feedback``."""
        return _TokenMade(self, torch.zeros(len(self.tokens), outputs, dtype=torch.float64))


@dataclasses.dataclass(frozen=True)
class _TokenMade:
    feedback: TokenFeedback
    owed: Tensor

    def enter(self, left: Tensor, columns: slice) -> Tensor:
        x, root = self.feedback.tokens[:, columns], self.feedback.after[columns.start // BLOCK]
        return left[columns].addmm(torch.cholesky_solve(x, root).T, self.owed)

    def leave(self, left: Tensor, columns: slice, errors: Tensor, rounded: Tensor) -> None:
        self.owed.addmm_(self.feedback.tokens[:, columns], left[columns] - rounded)


def feedback(tokens: Tensor, weights: Tensor | None, damping: float, order: bool) -> Feedback:
    """The feedback of a site's tokens, in the space that takes less memory: that of the channels, or of the tokens.

    Args:
        tokens: [N, d] as the integer GEMM will see them: transformed and gated.
        weights: [N] importance of each token, or None: all alike.
        damping: Share of the mean diagonal of H that is added to its diagonal.
        order: Columns with the largest diagonal first, instead of from left to right.

    Returns:
        For ``gptq``.
    """
    count, features = tokens.shape
    if count**2 * max(1, features // BLOCK) <= features**2:
        return TokenFeedback.of(tokens, weights, damping, order)
    return DenseFeedback.of(hessian(tokens, weights), damping, order)


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
    turn, step = feedback.turn, scale.double()
    # Columns of the weight are rows here: each is read and written in one piece.
    left = weight.T[turn].double()
    codes = torch.empty(left.shape, dtype=torch.int8)
    made = feedback.start(len(weight))
    for start in range(0, len(left), BLOCK):
        columns = slice(start, min(start + BLOCK, len(left)))
        block, factor = made.enter(left, columns), feedback.diagonal_block(columns)
        errors, rounded = torch.empty_like(block), torch.empty_like(block)
        for k in range(len(block)):
            column = block[k]
            code = (column / step).round_().clamp_(-half, half - 1)
            codes[turn[start + k]] = code
            rounded[k] = code.mul_(step)
            errors[k] = (column - rounded[k]).div_(factor[k, k])
            block[k + 1 :].addr_(factor[k, k + 1 :], errors[k], alpha=-1)
        made.leave(left, columns, errors, rounded)
    return codes.T.contiguous()


def _turn(diagonal: Tensor, order: bool) -> Tensor:
    """The order of the columns, the loudest first if asked for."""
    return diagonal.argsort(descending=True) if order else torch.arange(len(diagonal))


def _invert(lower: Tensor) -> None:
    """Inverts a lower triangular matrix in its place, block by block."""
    for start in range(0, len(lower), SQUARE):
        rows = slice(start, start + SQUARE)
        square = lower[rows, rows]
        identity = torch.eye(len(square), dtype=lower.dtype)
        square.copy_(torch.linalg.solve_triangular(square, identity, upper=False))
        for begin in range(0, start, SQUARE):
            columns = slice(begin, begin + SQUARE)
            made = lower[rows, begin:start] @ lower[begin:start, columns]
            lower[rows, columns] = (square @ made).neg_()
