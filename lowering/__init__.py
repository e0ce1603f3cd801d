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
from starquant_fx.kernels import cpu as cpu_kernels
from starquant_fx.lowering import cpu, reference
from starquant_fx.lowering.choice import AUTO, log_choice
from starquant_fx.program import Program

TARGETS: dict[str, Callable[[Program], fx.GraphModule]] = {
    "reference": reference.lower,
    "cpu": cpu.lower,
}
"""Targets by name."""


def choose_target(name: str, device: torch.device) -> str:
    """Resolves ``auto`` for a device: ``cpu`` there if its kernels run on this machine, else ``reference``.

    The choice is logged once.

    Raises:
        LoweringError: Unknown target (the nearest name is offered).
    """
    if not isinstance(name, str) or name not in (AUTO, *TARGETS):
        raise LoweringError(
            f"unknown target {name!r}",
            where="target",
            expected=", ".join((AUTO, *TARGETS)),
            got=repr(name),
            hint=nearest(str(name), TARGETS) or f"{AUTO!r} takes the fastest one",
        )
    log_choice(name, device)
    if name != AUTO:
        return name
    return "cpu" if device.type == "cpu" and cpu_kernels.unavailable() is None else "reference"


def lower(program: Program, target: str) -> fx.GraphModule:
    """Lowers a finished program to a target (already resolved by ``choose_target``)."""
    return TARGETS[target](program)
