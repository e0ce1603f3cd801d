"""The arguments of a call of a full-precision model; a compiled one checks its own."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from starquant_fx.errors import InputError


def check_call(model: nn.Module, given: dict[str, Any]) -> None:
    """Checks the arguments before the model sees them.

    Args:
        model: One of our own.
        given: Arguments by name.

    Raises:
        InputError: The model does not take one of them, or there are no token ids.
    """
    takes = inspect.signature(model.forward).parameters
    odd = sorted(given.keys() - takes.keys())
    if odd or "input_ids" not in given:
        raise InputError(
            "the arguments do not fit the model",
            where="forward",
            expected=", ".join(takes),
            got=", ".join(odd) or "no input_ids",
            hint="leave out what the model does not take",
        )
