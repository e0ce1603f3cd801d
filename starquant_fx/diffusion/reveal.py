"""Which masked positions a step of Dream's sampler reveals."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.diffusion.candidates import may_look
from starquant_fx.diffusion.filters import draw_order
from starquant_fx.errors import InputError


class Reveal:
    """Chooses the positions that a step reveals, the surest or by ``alg_temp``.

    Args:
        alg_temp: As ``dream_generate``.
        generator: As there.
    """

    def __init__(self, alg_temp: float | None, generator: torch.Generator | None) -> None:
        self._alg_temp = alg_temp
        self._generator = generator
        self._empty: list[Tensor] = []

    def __call__(self, confidence: Tensor, masked: Tensor, share: float) -> Tensor:
        """As many positions in every row as the mean number of masks times a share, rounded down.

        Args:
            confidence: [B, L], -inf where there is no mask.
            masked: [B, L] bool.
            share: In [0, 1], exact in float32.

        Returns:
            [B, L] bool.

        Raises:
            InputError: A row to draw from has no mask; where that would make the host wait, ``check`` says it.
        """
        chosen = torch.zeros_like(masked)
        count: Tensor | int
        if may_look(masked.device):
            count = int((masked.sum() / len(masked)) * share)
            if count == 0:
                return chosen
            if not self._alg_temp:
                return chosen.scatter(1, confidence.topk(count, dim=1).indices, True)
        else:
            whole = (
                masked.sum()
            )  # divided by a tensor: by a number, a device multiplies by its reciprocal
            count = ((whole / torch.full_like(whole, len(masked))) * share).floor()
        if self._alg_temp:
            self._empty.append(((confidence.amax(1) == -torch.inf) & (count > 0)).any())
            if may_look(masked.device):
                self.check()
            scores = confidence / self._alg_temp
            order = draw_order(scores, count if isinstance(count, int) else None, self._generator)
        else:
            order = confidence.argsort(dim=-1, descending=True, stable=True)
        first = torch.arange(order.shape[1], device=order.device) < count
        return chosen.scatter(1, order, first.expand_as(order))

    def check(self) -> None:
        """Raises an InputError if a row that was drawn from had no mask."""
        if self._empty and bool(torch.stack(self._empty).any()):
            raise InputError(
                "a row has no [MASK] left to draw from while others still have some",
                where="alg_temp",
                expected="rows with equally many [MASK]",
                got="a row without any",
                hint="use alg_temp=None, or generate the rows one by one",
            )
