"""The candidates of a denoising step without a look at their values, where a look would make a device wait.

On the CPU a step computes the rows of its candidates and no others. Elsewhere their number would have to come back to
the host at every step; there, a block computes as many rows at each of its steps as it had candidates at its first, and
what is computed for other rows is dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.diffusion.stepping import logits_with_nan, require_numbers


def may_look(device: torch.device) -> bool:
    """Whether the host can read a tensor's values without waiting for what the device was told to do before."""
    return device.type == "cpu"


def row_capacity(candidates: Tensor) -> int | None:
    """Rows of each step of a block that starts with these candidates [B, L]; None = as many as there are each time."""
    return None if may_look(candidates.device) else int(candidates.sum())


def candidate_rows(candidates: Tensor, capacity: int | None) -> Tensor:
    """Positions of candidates in the flattened [B L], ascending; with a capacity as many, other rows behind them.

    Args:
        candidates: [B, L] bool, no more than ``capacity``.
        capacity: See ``row_capacity``.

    Returns:
        [R] int64.
    """
    if capacity is None:
        return candidates.flatten().nonzero().squeeze(1)
    return candidates.flatten().byte().argsort(descending=True, stable=True)[:capacity]


def at_candidates(
    candidates: Tensor, rows: Tensor, values: Tensor, others: Tensor | float
) -> Tensor:
    """Values of rows at their places where those are candidates, something else at all other places.

    Args:
        candidates: [B, L] bool.
        rows: [R], see ``candidate_rows``.
        values: [R].
        others: [B, L], or one number.

    Returns:
        [B, L] of the type of ``values``.
    """
    spread = torch.zeros(candidates.numel(), dtype=values.dtype, device=values.device)
    spread[rows] = values
    return torch.where(candidates, spread.view(candidates.shape), others)


class NumberWatch:
    """Refuses NaN in the logits of a generation: at once on the CPU, elsewhere when all steps are done.

    Args:
        device: Of the logits.
    """

    def __init__(self, device: torch.device) -> None:
        self._at_once = may_look(device)
        self._seen: list[Tensor] = []

    def see(self, step: int, values: Tensor, candidates: Tensor, rows: Tensor) -> None:
        """Looks at one step.

        Args:
            step: Counts from 1, as the calls do.
            values: Logits [R, vocab], or the largest of each row [R]; -inf is allowed.
            candidates: [B, L] bool; other rows may hold what they like.
            rows: [R], see ``candidate_rows``.

        Raises:
            StarQuantError: On the CPU, if there is a NaN.
        """
        if self._at_once:
            require_numbers(values, step)
        else:
            largest = values.amax(-1) if values.dim() == 2 else values
            self._seen.append((largest.isnan() & candidates.flatten()[rows]).any())

    def check(self) -> None:
        """Raises a StarQuantError if a step that was seen had a NaN."""
        if self._seen:
            strange = torch.stack(self._seen).nonzero()
            if len(strange):
                raise logits_with_nan(int(strange[0]) + 1)
