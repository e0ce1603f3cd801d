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
from starquant_fx.lowering.choice import AUTO, log_choice, triton_unavailable
from starquant_fx.lowering.tables import Laid
from starquant_fx.program import Program


def _triton(program: Program, laid: Laid) -> fx.GraphModule:
    """The target ``triton``, which is imported only where it is used."""
    from starquant_fx.lowering import triton

    return triton.lower(program, laid)


TARGETS: dict[str, Callable[[Program, Laid], fx.GraphModule]] = {
    "reference": reference.lower,
    "cpu": cpu.lower,
    "triton": _triton,
}
"""Targets by name."""


def choose_target(name: str, device: torch.device) -> str:
    """Resolves ``auto`` for a device: ``triton`` on CUDA, ``cpu`` on the CPU, else or without kernels ``reference``.

    The choice is logged once.

    Raises:
        LoweringError: Unknown target (the nearest name is offered), or ``triton`` where it cannot run.
    """
    if not isinstance(name, str) or name not in (AUTO, *TARGETS):
        raise LoweringError(
            f"unknown target {name!r}",
            where="target",
            expected=", ".join((AUTO, *TARGETS)),
            got=repr(name),
            hint=nearest(str(name), TARGETS) or f"{AUTO!r} takes the fastest one",
        )
    missing = triton_unavailable(device)
    if name == "triton" and missing is not None:
        raise LoweringError(
            "the target triton does not run here",
            where="target",
            expected="an NVIDIA GPU of compute capability 8.0 or higher, and Triton",
            got=missing,
            hint="device='cuda' moves the model to a GPU; target='auto' takes what runs; TRITON_INTERPRET=1 in the "
            "environment interprets the kernels on the CPU, slowly",
        )
    log_choice(name, device)
    if name != AUTO:
        return name
    if device.type == "cuda" and missing is None:
        return "triton"
    return "cpu" if device.type == "cpu" and cpu_kernels.unavailable() is None else "reference"


def runs_on(target: str, device: torch.device) -> bool:
    """Whether a target runs on a device of this machine."""
    if target == "triton":
        return triton_unavailable(device) is None
    return target != "cpu" or device.type == "cpu"


def lower(program: Program, target: str, laid: Laid | None = None) -> fx.GraphModule:
    """Lowers a finished program to a target (already resolved by ``choose_target``).

    Args:
        program: A fused program.
        target: Name of the target.
        laid: What other captures of the model laid out for the target's kernels, to be shared; receives what this
            one lays out.
    """
    return TARGETS[target](program, {} if laid is None else laid)
