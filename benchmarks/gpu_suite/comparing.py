"""How results are compared with what they should be: each comparison says whether it passed, and how far apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from starquant_fx.kernels import reference

FLOAT_ERROR = 0.01
"""Relative L2 error of bf16 results; a rounding alone is about 0.002."""
SITE_BITS = 4
FEWEST = 32
"""Rows that ``torch._int_mm`` is given at least; it takes no fewer than 17."""

Verdict = tuple[bool, str]
Comparison = Callable[[], dict[str, Verdict]]
"""Compares the parts of one problem, by name."""


def int_mm(codes: Tensor, weight: Tensor) -> Tensor:
    """Exact ``codes @ weight.T`` int32 by PyTorch, which takes no fewer than 17 rows and sizes that 8 divides."""
    rows = len(codes)
    if rows < FEWEST:
        codes = torch.nn.functional.pad(codes, (0, 0, 0, FEWEST - rows))
    found: Tensor = torch.ops.aten._int_mm(codes, weight.t())
    return found[:rows]


def exact(found: Tensor, integers: Tensor) -> Verdict:
    """Whether float32 results are the very integers, which float32 must hold."""
    largest = int(integers.abs().max())
    if largest >= reference.EXACT_FLOAT32:
        return False, f"the draw is not comparable: {largest} is more than float32 holds exactly"
    wrong = int(((found.to(torch.int32) != integers) | (found != found.round())).sum())
    return wrong == 0, "equal" if wrong == 0 else f"{wrong} of {integers.numel()} integers differ"


def relative_error(found: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference as a share of that of what is expected; NaN where either is."""
    apart = torch.linalg.vector_norm(found.float() - expected.float())
    return float(apart / torch.linalg.vector_norm(expected.float()).clamp(min=1e-30))


def close(found: Tensor, expected: Tensor, limit: float = FLOAT_ERROR) -> Verdict:
    """Whether the relative L2 error is small; NaN is not."""
    error = relative_error(found, expected)
    return error <= limit, f"relative error {error:.2g}, at most {limit}"


def near(found: Tensor, values: Tensor) -> bool:
    """Whether dequantized values are within two steps of a grid of 4 bits over their own range."""
    span = values.amax(-1, keepdim=True) - values.amin(-1, keepdim=True)
    return bool(((found - values).abs() <= 2 * span / (2**SITE_BITS - 1)).all())
