"""Inputs to verify an exported model on: denoising states of random and of given tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

SHAPES = ((1, 7), (1, 32), (3, 16))
"""Batch and length of random states."""
KINDS = {"mixed": 0.5, "all masked": 1.0, "none masked": 0.0}
"""Share of masked tokens."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        name: What is special about it.
        inputs: Tensors by the names of the exported inputs.
        kept: Which rows of the result belong to tokens: [B, L], or [R] of those in ``rows``. Those of padding are
            anything: where nothing may be attended to, runtimes differ, and nobody reads them.
    """

    name: str
    inputs: dict[str, Tensor]
    kept: Tensor


def cases(
    names: list[str],
    vocabulary: int,
    mask_token_id: int | None,
    longest: int | None,
    samples: Tensor | None,
) -> Iterator[Case]:
    """Calls of every kind of state.

    Args:
        names: Of the exported inputs.
        vocabulary: Token ids lie below.
        mask_token_id: None = the token state is an input.
        longest: Length of a sequence at most; None = any.
        samples: Real tokens [N, L] to mask as well, together and the first alone; None = random ones only.
    """
    source = torch.Generator().manual_seed(0)
    for batch, length in SHAPES:
        length = length if longest is None else min(length, longest)
        for kind, share in KINDS.items():
            ids = torch.randint(0, vocabulary, (batch, length), generator=source)
            ids[ids == mask_token_id] = 0 if mask_token_id != 0 else 1
            yield _case(f"random, {kind}", ids, share, names, mask_token_id, source)
    if samples is not None:
        for kind, share in KINDS.items():
            yield _case(f"text, {kind}", samples, share, names, mask_token_id, source)
        if len(samples) > 1:
            yield _case("text, mixed", samples[:1], KINDS["mixed"], names, mask_token_id, source)


def _case(
    name: str,
    ids: Tensor,
    share: float,
    names: list[str],
    mask_token_id: int | None,
    source: torch.Generator,
) -> Case:
    masked = torch.rand(ids.shape, generator=source) < share
    if mask_token_id is not None:
        ids = ids.masked_fill(masked, mask_token_id)
    batch, length = ids.shape
    keep = torch.ones_like(ids)
    keep[-1, : length // 4] = 0  # padding on the left of the last sequence
    seen = keep.bool()
    known = {
        "input_ids": ids,
        "token_state": masked.long(),
        "position_ids": (keep.cumsum(-1) - 1).masked_fill(~seen, 1),
        "rows": torch.arange(batch * length)[::2],
        "attention_mask": keep,
    }
    if "position_ids" in names:
        known["attention_mask"] = (seen[:, :, None] & seen[:, None, :])[:, None]
    if "attention_mask" not in names:
        seen = torch.ones_like(seen)
    kept = seen.flatten()[known["rows"]] if "rows" in names else seen
    return Case(f"{name}, {batch} x {length}", {n: known[n] for n in names}, kept)
