"""The heads that store no logits against logits in memory, rounded as a model's are."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu_suite.comparing import FLOAT_ERROR, Verdict, close, int_mm
from gpu_suite.head import Greedy, head_problem


def compare_float(
    size: tuple[int, int], rows: int, generator: torch.Generator
) -> dict[str, Verdict]:
    """``tile_greedy`` with a head of (inputs, outputs) on some rows."""
    head = head_problem(size, rows, generator)
    return _greedy(head.fused(), head.x.float() @ head.weight.float().T, head.x)


def compare_int8(
    size: tuple[int, int], rows: int, generator: torch.Generator
) -> dict[str, Verdict]:
    """``tile_greedy_int8``, likewise."""
    head = head_problem(size, rows, generator)
    made = head.quantized
    total = int_mm(made.codes, made.weight).double()
    total -= made.zero.double() * made.column_sum.double()
    logits = (total * made.scale.double() * made.weight_scale.double()).float()
    return _greedy(head.fused_int8(made.packed(), made.column_sum), logits, head.x)


def _greedy(found: Greedy, logits: Tensor, like: Tensor) -> dict[str, Verdict]:
    """The largest logit, its token and its probability; the token may be another that is as large but for rounding."""
    largest, tokens, probability = found
    rounded = logits.to(like.dtype).float()
    peak = rounded.amax(-1)
    reached = rounded.gather(-1, tokens[:, None]).squeeze(-1)
    missed = float(((peak - reached) / peak.abs()).max())
    return {
        "largest": close(largest, peak),
        "token": (missed <= FLOAT_ERROR, f"its logit is at most {missed:.2g} below the largest"),
        "probability": close(probability, (peak - rounded.logsumexp(-1)).exp()),
    }
