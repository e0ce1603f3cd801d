"""Which tokens are masked: drawn once from a seed, so that every model meets the same masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from starquant_fx.errors import InputError

RATIOS = (0.15, 0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class MaskPlan:
    """Masks of an evaluation, independent of any model.

    Attributes:
        likelihood: [D, N, L] bool, D draws for each of N segments, for the NELBO.
        ratios: The R mask ratios of ``at_ratio``.
        at_ratio: [R, N, L] bool, the same share of every segment, for what is told by mask ratio.
        seed: Seed that they were drawn from.
    """

    likelihood: Tensor
    ratios: tuple[float, ...]
    at_ratio: Tensor
    seed: int


def mask_plan(
    count: int, length: int, seed: int = 0, draws: int = 1, ratios: tuple[float, ...] = RATIOS
) -> MaskPlan:
    """Draws the masks for segments [count, length].

    For the NELBO exactly k tokens are masked, k uniform on 1..L (``nelbo`` says why). The k of all
    segments and draws are stratified: N·D equal strata of (0, 1], one ratio in each, all with the
    same random offset (Kingma et al. 2021, "Variational Diffusion Models", appendix I.1). The D
    ratios of one segment are 1/D apart, so that D = L meets every k once.

    Args:
        count: Segments N.
        length: Tokens a segment, L.
        seed: Seed of every draw.
        draws: Monte-Carlo draws a segment, D.
        ratios: Mask ratios, each in (0, 1]; round(ratio · L) tokens are masked.

    Returns:
        The plan.

    Raises:
        InputError: A number is out of range, or a ratio masks no token of a segment this short.
    """
    for name, value in (("count", count), ("length", length), ("draws", draws)):
        if value < 1:
            raise InputError(
                f"{name} is not usable", where=name, expected="1 or more", got=str(value)
            )
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise InputError(
                "a mask ratio is out of range", where="ratios", expected="(0, 1]", got=str(ratio)
            )
        if round(ratio * length) < 1:
            raise InputError(
                "no token would be masked at a mask ratio",
                where="ratios",
                expected=f"more than {0.5 / length:g} for segments of {length} tokens",
                got=str(ratio),
                hint="use longer segments or higher ratios",
            )
    generator = torch.Generator().manual_seed(seed)
    offset = 1 - torch.rand((), generator=generator, dtype=torch.float64)  # (0, 1]
    within = (torch.randperm(count, generator=generator) + offset) / count
    shares = (torch.arange(draws)[:, None] + within) / draws  # [D, N]
    masked = (shares * length).ceil().clamp(1, length)
    fixed = [round(ratio * length) for ratio in ratios]
    at_ratio = torch.tensor(fixed)[:, None].expand(len(ratios), count)
    return MaskPlan(
        _choose(masked, length, generator),
        tuple(ratios),
        _choose(at_ratio, length, generator),
        seed,
    )


def _choose(counts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Marks ``counts`` [...] of ``length`` positions, every subset equally likely."""
    uniforms = torch.rand(*counts.shape, length, generator=generator, dtype=torch.float64)
    # The order of uniforms is a random permutation, of which exactly `counts` entries are below it.
    return uniforms.argsort(-1) < counts[..., None]


class MaskedBatch(NamedTuple):
    """Some segments under one mask each.

    Attributes:
        which: Which of the K masks of each segment.
        rows: Which segments.
        ids: [B, L] int64, [MASK] where masked.
        masked: [B, L] bool.
        targets: [M] int64, the true tokens at the masked positions, row by row.
    """

    which: int
    rows: slice
    ids: Tensor
    masked: Tensor
    targets: Tensor

    def means(self, values: Tensor) -> Tensor:
        """Averages values [M] of the masked tokens by segment; returns [B] float64 on the CPU."""
        row = self.masked.nonzero()[:, 0]
        sums = torch.zeros(len(self.masked), dtype=torch.float64)
        return sums.index_add_(0, row, values.to("cpu", torch.float64)) / self.masked.sum(1)


def masked_batches(
    segments: Tensor, masks: Tensor, mask_id: int, batch: int
) -> Iterator[MaskedBatch]:
    """Yields segments [N, L] under K masks [K, N, L], at most ``batch`` segments at once."""
    for which, mask in enumerate(masks):
        for start in range(0, len(segments), batch):
            rows = slice(start, start + batch)
            masked, clean = mask[rows], segments[rows]
            yield MaskedBatch(
                which, rows, clean.masked_fill(masked, mask_id), masked, clean[masked]
            )


def batch_count(masks: Tensor, batch: int) -> int:
    """Number of batches that ``masked_batches`` yields for masks [K, N, L]."""
    return len(masks) * math.ceil(masks.shape[1] / batch)
