"""The operators of the Triton target in plain PyTorch, so that the GPU benchmark's code runs without its kernels."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor

from gpu_suite import tile
from starquant_fx.kernels import reference


def tile_linear(codes: Tensor, scale: Tensor, zero: Tensor, packed: Tensor, *rest: Any) -> Tensor:
    weight_scale, sums, _, bias, state, state_bias, coefficients, image, residual = rest[:-2]
    swiglu, dtype = rest[-2:]
    groups = 1 if weight_scale.dim() == 1 else weight_scale.shape[1]
    sides = (
        codes.double().unflatten(-1, (groups, -1)),
        packed.double().unflatten(-1, (groups, -1)),
    )
    total = torch.einsum("tgd,ngd->tng", *sides) - zero.double()[..., None] * sums.view(-1, groups)
    y = (total * weight_scale.view(-1, groups)).sum(-1) * scale + (0 if bias is None else bias)
    y = y if state_bias is None else y + state_bias[state]
    y = y if image is None else y + coefficients.double() @ image.double()
    if swiglu:
        gate, up = y.to(dtype).chunk(2, -1)
        y = torch.nn.functional.silu(gate) * up
    found: Tensor = y.to(dtype) if residual is None else y.to(dtype) + residual
    return found


def tile_prepare(
    x: Tensor,
    eps: float,
    matrix: Tensor,
    state: Tensor,
    shift: Tensor,
    directions: Tensor,
    reduce: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    n = torch.nn.functional.rms_norm(x.float(), x.shape[-1:], eps=eps)
    own = torch.einsum("td,tdk->tk", n, reduce[state].float()) + start[state]
    low_rank = torch.einsum("tk,tdk->td", own, directions[state].float())
    rest = reference.compensate(n, matrix, torch.zeros_like(n[0])) + shift[state] - low_rank
    spread = torch.zeros(len(x), len(start), own.shape[1])
    spread[torch.arange(len(x)), state] = own
    return rest.to(x.dtype), spread.flatten(1).to(x.dtype)


def tile_site(
    x: Tensor, eps: float, state: Tensor, shift: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    factors, structure, shared, bounds, bits, symmetric, clip = rest
    n = torch.nn.functional.rms_norm(x.float(), x.shape[-1:], eps=eps) + shift[state]
    turned = reference.gate(reference.rotate(n, factors, structure), state, shared, bounds)
    codes, scale, zero = reference.quantize_activation(turned, bits, symmetric, clip)
    return codes.to(torch.int8), scale, zero


def tile_greedy(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return reference.greedy(torch.nn.functional.linear(x, weight, bias), False)


def tile_greedy_int8(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return reference.greedy(tile_linear(*arguments[:-1], None, False, arguments[-1]), False)


OPERATORS = (tile_linear, tile_prepare, tile_site, tile_greedy, tile_greedy_int8)


def install(monkeypatch: pytest.MonkeyPatch, **others: Any) -> None:
    """Makes the benchmark find these operators, or others by name."""
    found = {**{one.__name__: one for one in OPERATORS}, **others}
    monkeypatch.setattr(tile, "missing", lambda device: "")
    monkeypatch.setattr(tile, "operator", lambda name, device: found[name])
    monkeypatch.setattr(tile, "linear", lambda device, split=0: found["tile_linear"])
    monkeypatch.setattr(tile, "target", lambda device: ("reference", "tried on the CPU"))
    layout = types.SimpleNamespace(tile_pack=lambda weight, bits: weight)
    monkeypatch.setattr(tile, "layout", lambda: layout)
