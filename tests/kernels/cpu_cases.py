"""Inputs of the CPU kernels, and what the reference makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from starquant_fx.kernels import cpu, reference


def linear_case(shape: tuple[int, ...], outputs: int, bits: int, bound: bool = True) -> list[Any]:
    """Arguments of ``quantized_linear`` with a bias and a bias of the state, or without."""
    g = torch.Generator().manual_seed(outputs)
    half, features = 2 ** (bits - 1), shape[-1]
    weight = torch.randint(-half, half, (outputs, features), dtype=torch.int8, generator=g)
    row = (*shape[:-1], 1)
    extras: list[Any] = [None, None, None]
    if bound:
        state = torch.randint(0, 2, shape[:-1], generator=g)
        extras = [torch.randn(outputs, generator=g), state, torch.randn(2, outputs, generator=g)]
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=g),
        torch.rand(row, generator=g),
        torch.randint(0, 256, row, generator=g).float(),
        reference.pack(weight, bits),
        torch.rand(outputs, generator=g),
        weight.sum(1, dtype=torch.int32),
        bits,
        *extras,
    ]


def orthogonal(size: int, g: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=g))[0]


def site_case(
    shape: tuple[int, ...], sizes: tuple[int, int], dtype: torch.dtype, signs: bool = False
) -> dict[str, Any]:
    g = torch.Generator().manual_seed(sizes[0])
    features, right = shape[-1], sizes[1]
    block = 4 if features % 4 == 0 else 1
    shared = features - 2 * right
    factors = [orthogonal(size, g) for size in sizes]
    if signs:
        factors.insert(0, torch.randint(0, 2, (features,), generator=g) * 2.0 - 1)
    eye = torch.eye(block).repeat(features // block, 1, 1)
    return {
        "x": torch.randn(shape, generator=g).to(dtype),
        "state": torch.randint(0, 2, shape[:-1], generator=g),
        "matrix": eye + 0.1 * torch.randn(eye.shape, generator=g),
        "offset": 0.1 * torch.randn(features, generator=g),
        "means": torch.randn(2, features, generator=g),
        "directions": torch.linalg.qr(torch.randn(2, features, 3, generator=g))[0],
        "factors": factors,
        "structure": "hadamard" if signs else "kronecker",
        "shared": shared,
        "bounds": [shared + right, features, shared, shared + right],
        "symmetric": False,
        "clip": torch.tensor([0.9, 0.8]),
    }


def expected_codes(bits: int, case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The reference in float32, operator by operator."""
    state = case["state"]
    x = reference.compensate(case["x"].float(), case["matrix"], case["offset"])
    x = reference.center(x, state, case["means"])
    x, coefficients = reference.split_low_rank(x, state, case["directions"])
    x = reference.rotate(x, case["factors"], case["structure"])
    x = reference.gate(x, state, case["shared"], case["bounds"])
    codes = reference.quantize_activation(x, bits, case["symmetric"], case["clip"])
    return *codes, coefficients


def found_codes(bits: int, case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    names = ("matrix", "offset", "means", "directions", "factors", "bounds", "clip")
    tables = cpu.site_tables(*(case[name] for name in names))
    rank = case["directions"].shape[-1]
    return cpu.site_codes(
        case["x"], case["state"], tables, rank, case["shared"], bits, case["symmetric"]
    )
