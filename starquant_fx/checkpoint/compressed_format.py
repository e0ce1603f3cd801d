"""The format compressed-tensors: how codes lie in its files, and the ``quantization_config`` that says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from starquant_fx.checkpoint.compressed_sites import Quantized

METHOD = "compressed-tensors"
INTEGERS, PACKED, MIXED = "int-quantized", "pack-quantized", "mixed-precision"
WORD = 32
"""Bits of a word of packed codes."""


def format_of(one: Quantized) -> str:
    """How the format keeps a linear: a byte a code beside eight-bit activations, else packed into words."""
    return INTEGERS if (one.weight_bits, one.activation_bits) == (8, 8) else PACKED


def shapes(one: Quantized) -> dict[str, Tensor]:
    """The tensors that a linear is written as, without values; bias left out."""
    made: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "weight_scale": ((one.outputs, 1), torch.float32)
    }
    if format_of(one) == INTEGERS:
        made["weight"] = ((one.outputs, one.features), torch.int8)
    else:
        words = -(-one.features * one.weight_bits // WORD)
        made["weight_packed"] = ((one.outputs, words), torch.int32)
        made["weight_shape"] = ((2,), torch.int64)
    return {
        f"{one.name}.{leaf}": torch.empty(shape, dtype=dtype, device="meta")
        for leaf, (shape, dtype) in made.items()
    }


def laid_out(one: Quantized, codes: Tensor) -> Tensor:
    """Codes int8 [n, d] as the format keeps them."""
    return codes if format_of(one) == INTEGERS else packed(codes, one.weight_bits)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Packs codes int8 [n, d] of 4 or 8 bits into words int32 [n, ceil(d bits / 32)].

    Half the range is added to each code, and the first one is lowest in its word.
    """
    lifted = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    lifted = torch.nn.functional.pad(lifted, (0, -codes.shape[1] % (WORD // bits)))
    if bits == 4:
        lifted = lifted[:, ::2] | lifted[:, 1::2] << 4
    return lifted.contiguous().view(torch.int32)


def quantization_config(linears: Iterable[Quantized], others: Iterable[str]) -> dict[str, Any]:
    """What ``config.json`` says of the quantization.

    Args:
        linears: The quantized linears.
        others: Names of the linears that are not.

    Returns:
        The content of ``quantization_config``: a group for each choice of bits.
    """
    groups: dict[tuple[int, int], list[Quantized]] = {}
    for one in linears:
        groups.setdefault((one.weight_bits, one.activation_bits), []).append(one)
    written = {
        f"group_{number}": _group(held, ["Linear"] if len(groups) == 1 else [o.name for o in held])
        for number, held in enumerate(groups.values())
    }
    formats = {group["format"] for group in written.values()}
    return {
        "quant_method": METHOD,
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "quantization_status": "compressed",
        "config_groups": written,
        "ignore": list(others),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _group(held: list[Quantized], targets: list[str]) -> dict[str, Any]:
    one = held[0]
    dynamic = one.activation_bits < 16
    return {
        "targets": targets,
        "format": format_of(one),
        "weights": _arguments(one.weight_bits, "channel", symmetric=True, dynamic=False),
        "input_activations": _arguments(one.activation_bits, "token", symmetric=False, dynamic=True)
        if dynamic
        else None,
        "output_activations": None,
    }


def _arguments(bits: int, strategy: str, *, symmetric: bool, dynamic: bool) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": None,
        "dynamic": dynamic,
    }
