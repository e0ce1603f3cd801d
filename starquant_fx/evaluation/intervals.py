"""Confidence intervals of means over segments."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from starquant_fx.errors import InputError

RESAMPLES, BLOCK = 10_000, 1_000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def mean_interval(values: Tensor, seed: int = 0) -> Interval:
    """Bootstraps the mean of values that are one a segment.

    For two models on the same segments and masks, give the differences: what makes a segment hard
    is common to both and drops out, so the paired interval is far narrower than either mean's own.

    The bootstrap rather than Student's t, because NELBO differences of short masks are skewed and
    shares near 1 are bounded, and its percentiles follow both. Each resample draws n - 1 of the n
    values, which gives the means the variance s²/n, where n draws would give (n - 1)/n of it. The
    segments count as independent; masks stratified over segments make the interval slightly too
    wide. Meant for a dozen segments or more.

    Args:
        values: [n], n >= 2.
        seed: Seed of the resamples.

    Returns:
        The mean and the 2.5 % and 97.5 % percentiles of the resampled means.

    Raises:
        InputError: Fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise InputError(
            "an interval needs more segments",
            where="values",
            expected="2 or more",
            got=str(count),
            hint="use a longer text or a higher limit",
        )
    generator = torch.Generator().manual_seed(seed)
    values = values.double()
    means = torch.cat(
        [
            values[torch.randint(count, (BLOCK, count - 1), generator=generator)].mean(1)
            for _ in range(RESAMPLES // BLOCK)
        ]
    )
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(values.mean()), low, high)
