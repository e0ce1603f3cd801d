"""What a kernel would read wrongly, or past its end, is refused; what fits costs microseconds a call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from starquant_fx.errors import InputError

HINTS = {"state": "check token_state"}
HINT = "lay weights and tables out by the functions that do that, and give them the sizes of what reads them"


Wanted = tuple[str, Tensor | None, torch.dtype | None, tuple[int, ...]]
"""Name, tensor (None = it is not there, and need not be), type (None = any float) and sizes. Plain tuples, because
sites and linears make dozens of them a call."""


def require(what: str, where: str, wanted: Sequence[Wanted], laid: bool = False) -> None:
    """Raises an InputError for the first tensor that does not fit, or is not on the CPU.

    Args:
        what: What the error says.
        where: Where it is.
        wanted: The tensors.
        laid: They have to be contiguous, because they are read as they lie.
    """
    for name, got, kind, shape in wanted:
        if got is None:
            continue
        typed = got.is_floating_point() if kind is None else got.dtype == kind
        if not (typed and got.shape == shape and got.is_cpu and (not laid or got.is_contiguous())):
            dtype = "floats" if kind is None else str(kind).removeprefix("torch.")
            expected = f"{name}: {dtype} {list(shape)} on the CPU{', contiguous' if laid else ''}"
            raise unfit(what, where, expected, f"{described(got)} on {got.device}", name)


def require_that(what: str, where: str, conditions: Sequence[tuple[bool, str, object]]) -> None:
    """Raises an InputError for the first condition that does not hold: (holds, what was expected, what was got)."""
    for holds, expected, got in conditions:
        if not holds:
            raise unfit(what, where, expected, str(got))


def require_states(state: Tensor, states: int, what: str, where: str) -> None:
    """Raises an InputError if a token has a state that there is not; reads each once."""
    if state.numel():
        low, high = (int(value) for value in torch.aminmax(state))
        if low < 0 or high >= states:
            raise unknown_state(what, where, states, f"states {low} to {high}")


def unknown_state(what: str, where: str, states: int, got: str) -> InputError:
    """The refusal of a state that there is not."""
    return unfit(what, where, f"states 0 to {states - 1}", got, "state")


def unfit(what: str, where: str, expected: str, got: str, name: str = "") -> InputError:
    """The refusal of an argument."""
    return InputError(what, where=where, expected=expected, got=got, hint=HINTS.get(name, HINT))


def described(tensor: Tensor) -> str:
    """Type and sizes."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def up_to(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple
