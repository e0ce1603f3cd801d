"""What a Triton kernel would read wrongly, or past its end, is refused before a launch, without looking at values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starquant_fx.errors import InputError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32)
HINT = "lay weights and tables out by the functions that do that, and give them the sizes of what reads them"

Wanted = tuple[str, Tensor | None, Sequence[torch.dtype], tuple[int, ...]]
"""Name, tensor (None = it is not there, and need not be), types and sizes."""


def require(where: str, device: torch.device, wanted: Sequence[Wanted]) -> None:
    """Raises an InputError for the first tensor that does not fit, or is not on the device."""
    for name, got, kinds, shape in wanted:
        if got is None or (got.dtype in kinds and got.shape == shape and got.device == device):
            continue
        types = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
        raise unfit(
            where,
            f"{name}: {types} {list(shape)} on {device}",
            f"{str(got.dtype).removeprefix('torch.')} {list(got.shape)} on {got.device}",
        )


def require_that(where: str, conditions: Sequence[tuple[bool, str, object]]) -> None:
    """Raises an InputError for the first condition that does not hold: (holds, what was expected, what was got)."""
    for holds, expected, got in conditions:
        if not holds:
            raise unfit(where, expected, str(got))


def unfit(where: str, expected: str, got: str) -> InputError:
    """The refusal."""
    return InputError(
        "a kernel of the triton target cannot take these tensors",
        where=where,
        expected=expected,
        got=got,
        hint=HINT,
    )
