"""What every launch asks: is Triton interpreting, which chip is it, can the tensor be used at all."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import triton
from torch import Tensor
from triton import knobs

from starquant_fx.errors import LoweringError

P = ParamSpec("P")
R = TypeVar("R")
INTERPRETED = 90
"""The architecture that the interpreter passes for."""
FENCED = (3, 7)
"""The first Triton that orders warpgroup products of sm_90 behind the copies to shared memory that they read."""

_log = logging.getLogger("starquant_fx")


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1``), on CPU tensors and slowly."""
    return bool(knobs.runtime.interpret)


def architecture(device: torch.device) -> int:
    """Compute capability of a device as one number.

    Args:
        device: A CUDA device, or any device while interpreting.

    Returns:
        80, 86, 89, 90, ...; ``INTERPRETED`` for what is not a CUDA device.
    """
    if device.type != "cuda":
        return INTERPRETED
    return _capability(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def on_its_device(operator: Callable[P, R]) -> Callable[P, R]:
    """An operator that launches on the device of its first tensor, whichever is the current one."""

    @functools.wraps(operator)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if first.is_cuda:
            _warn_of_fences(architecture(first.device), triton.__version__)
        with torch.cuda.device_of(first):
            return operator(*args, **kwargs)

    return guarded


@functools.cache
def _warn_of_fences(chip: int, version: str) -> None:
    """Says once, on sm_90, that a Triton without the fence compiles kernels that may read stale shared memory."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if 90 <= chip < 100 and numbers < FENCED:
        _log.warning(
            "Triton %s puts no fence between copies to shared memory and the products of sm_%d that read it, so that a "
            "result may be wrong now and then: check them with `python benchmarks/gpu.py --parts checks`, or install "
            "Triton %d.%d or newer",
            *(version, chip, *FENCED),
        )


def require_device(tensor: Tensor, where: str) -> None:
    """Refuses a tensor that no kernel can read.

    Args:
        tensor: What is about to be given to a kernel.
        where: The operator.

    Raises:
        LoweringError: It is not on a CUDA device, and Triton is not interpreting.
    """
    if tensor.is_cuda or interpreting():
        return
    raise LoweringError(
        "a kernel of the triton target cannot run here",
        where=where,
        expected="tensors on a CUDA device",
        got=f"a tensor on {tensor.device}",
        hint="move the model to a CUDA device, or set TRITON_INTERPRET=1 before the start (slow, for tests)",
    )
