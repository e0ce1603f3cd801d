"""The operators of the Triton target: found when they are asked for, because nothing else here needs them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from starquant_fx.errors import LoweringError, cause

PACKAGE = "starquant_fx.kernels.triton"
TARGET = "triton"


@functools.cache
def _loaded() -> str:
    """Imports the package, which registers its operators; empty, or why that failed."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        importlib.import_module(PACKAGE)
    except Exception as error:  # whatever a broken kernel raises belongs into its rows
        return cause(error)
    return ""


def missing(device: torch.device) -> str:
    """Why the operators cannot run on a device; empty if they can."""
    if reason := _loaded():
        return reason
    if device.type != "cuda" and not interpreting():
        return "Triton needs a CUDA device, or TRITON_INTERPRET=1"
    return ""


def interpreting() -> bool:
    """Whether Triton interprets its kernels."""
    triton: Any = importlib.import_module("triton")
    return bool(triton.knobs.runtime.interpret)


def operator(name: str, device: torch.device) -> Any:
    """An operator of the target.

    Raises:
        LoweringError: It cannot run on this device.
    """
    if reason := missing(device):
        raise LoweringError(reason, where=name)
    return getattr(torch.ops.starquant, name)


def linear(device: torch.device, split: int = 0) -> Callable[..., Tensor]:
    """``tile_linear``; with the channels summed in so many parts unless that is 0.

    Raises:
        LoweringError: It cannot run on this device.
    """
    chosen: Callable[..., Tensor] = operator("tile_linear", device)
    return functools.partial(_split_linear, split) if split else chosen


def _split_linear(split: int, codes: Tensor, *rest: Any) -> Tensor:
    """``tile_linear`` with the tile that it would take, but for the number of parts."""
    module = importlib.import_module(f"{PACKAGE}.linear")
    scale, zero, packed, weight_scale, sums, weight_bits, *extras, swiglu, dtype = rest
    bits, tokens = 4 if weight_bits <= 4 else 8, codes.shape[:-1].numel()
    size = (tokens, packed.shape[0], codes.shape[-1], bits, weight_scale.dim() == 2)
    config = dataclasses.replace(module.configs.choose(codes.device, *size), split=split)
    options = module.Options(dtype, *extras, swiglu=swiglu)
    sides = (codes, scale, zero, packed, weight_scale, sums)
    found: Tensor = module.launch(*sides, bits, options, config)
    return found


def layout() -> Any:
    """The module that packs weights for the operators: ``tile_pack`` and ``tile_unpack``."""
    return importlib.import_module(f"{PACKAGE}.layout")


def target(device: torch.device) -> tuple[str | None, str]:
    """The target that ours is lowered to, and what a reader must know; None and why where there is none.

    On a CPU, where the benchmark is only tried, it is the reference unless Triton interprets.
    """
    reason = missing(device)
    if not reason:
        return TARGET, ""
    if device.type == "cuda":
        return None, reason
    return "reference", f"reference kernels: {reason}"
