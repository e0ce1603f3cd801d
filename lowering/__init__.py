"""The targets, one a file."""

if __name__ != "starquant_fx.lowering":
    raise ImportError(
        f"{__name__!r} is not a package of its own: import it as 'starquant_fx.lowering'",
        name=__name__,
    )

from collections.abc import Callable

import torch
from torch import fx

from starquant_fx.errors import LoweringError, nearest
from starquant_fx.kernels.cpu import unavailable
from starquant_fx.lowering import cpu, reference
from starquant_fx.program import Program

TARGETS: dict[str, Callable[[Program], fx.GraphModule]] = {
    "reference": reference.lower,
    "cpu": cpu.lower,
}
"""Targets by name."""
AUTO = "auto"


def choose_target(name: str, device: torch.device) -> str:
    """Resolves ``auto`` for a device: ``cpu`` there if its kernels run on this machine, else ``reference``.

    Raises:
        LoweringError: Unknown target (the nearest name is offered).
    """
    if name == AUTO:
        usable = device.type == "cpu" and unavailable() is None
        return "cpu" if usable else "reference"
    if not isinstance(name, str) or name not in TARGETS:
        raise LoweringError(
            f"unknown target {name!r}",
            where="target",
            expected=", ".join((AUTO, *TARGETS)),
            got=repr(name),
            hint=nearest(str(name), TARGETS) or f"{AUTO!r} takes the fastest one",
        )
    return name


def stand_in(name: str, device: torch.device) -> str | None:
    """Says why the reference stands in for the kernels that ``name`` asks for; None if they run, or nobody asks."""
    if name not in (AUTO, "cpu") or device.type != "cpu" or (reason := unavailable()) is None:
        return None
    return f"the reference kernels stand in: {reason}"


def lower(program: Program, target: str) -> fx.GraphModule:
    """Lowers a finished program to a target (already resolved by ``choose_target``)."""
    return TARGETS[target](program)
