"""Other low-bit linears in the same model: torchao, fp8 by ``torch._scaled_mm``, gemlite, humming-kernels."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_suite.models import twin, with_linears
from starquant_fx.kernels.reference import quantize_weight

FP8 = torch.float8_e4m3fn
GROUP = 128
"""Channels that share a scale of a four-bit weight in gemlite, which has none per output channel there."""


class Fp8Linear(nn.Module):
    """Weights in e4m3 with a scale per output channel, activations in e4m3 with a scale per token found at run time."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _fp8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., d] to [..., n]."""
        weight: Any = self.weight
        scale: Any = self.scale
        codes, rows = _fp8(x.flatten(0, -2))
        y = torch.ops.aten._scaled_mm(
            codes, weight.t(), rows, scale.t(), out_dtype=x.dtype, use_fast_accum=True
        )
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


def _fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [T, d] as e4m3 with a float32 scale [T, 1] each."""
    largest = torch.finfo(FP8).max
    scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest
    return (x.float() / scale).clamp(-largest, largest).to(FP8), scale


def fp8(model: nn.Module) -> nn.Module:
    """All linears, the head too."""
    return with_linears(model, Fp8Linear, head=True)


def torchao_int8(model: nn.Module) -> nn.Module:
    """All linears, the head too, as torchao quantizes by default."""
    torchao: Any = importlib.import_module("torchao.quantization")
    other = twin(model)
    torchao.quantize_(other, torchao.Int8DynamicActivationInt8WeightConfig())
    return other


def gemlite_int8(model: nn.Module) -> nn.Module:
    """All linears, the head too: int8 weights by channel, int8 activations by token."""
    helper: Any = importlib.import_module("gemlite.helper")

    def make(linear: nn.Linear) -> nn.Module:
        one = helper.A8W8_INT8_dynamic(device=str(linear.weight.device), dtype=torch.bfloat16)
        made: nn.Module = one.from_linear(linear, del_orig=False)
        return made

    return with_linears(model, make, head=True)


def gemlite_int4(model: nn.Module) -> nn.Module:
    """The blocks' linears: int4 weights in groups, activations in bf16; the head stays in bf16."""
    helper: Any = importlib.import_module("gemlite.helper")

    def make(linear: nn.Linear) -> nn.Module:
        weight = linear.weight.detach().unflatten(-1, (-1, GROUP)).flatten(0, 1)
        codes, scale = quantize_weight(weight, 4, None)
        shifted = (codes + 8).to(torch.uint8).view(linear.weight.shape)
        rows = scale[:, None].bfloat16()
        one = helper.A16W4_HQQ_INT(device=str(linear.weight.device), dtype=torch.bfloat16)
        made: nn.Module = one.from_weights(shifted, rows, torch.full_like(rows, 8), linear.bias)
        return made

    return with_linears(model, make, head=False)


class HummingLinear(nn.Module):
    """A layer of humming-kernels: integer weights and activations, quantized by its own rules."""

    def __init__(self, linear: nn.Linear, weight: str, activation: str) -> None:
        super().__init__()
        layers: Any = importlib.import_module("humming.layer")
        outputs, inputs = linear.weight.shape
        self.layer: nn.Module = layers.HummingLayer(
            shape_n=outputs,
            shape_k=inputs,
            weight_config={"dtype": weight},
            input_config={"dtype": activation},
            torch_dtype=torch.bfloat16,
        ).to(linear.weight.device)
        loaded: Any = self.layer
        loaded.load_from_unquantized(linear.weight.detach())
        loaded.transform()
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., d] to [..., n]."""
        y: Tensor = self.layer(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


def humming(model: nn.Module, weight: str, activation: str) -> nn.Module:
    """The blocks' linears; with eight bits on both sides the head too."""
    head = weight == activation == "int8"
    return with_linears(model, lambda linear: HummingLinear(linear, weight, activation), head)


def bf16_linear(x: Tensor, weight: Tensor) -> Tensor:
    """What every low-bit product stands in for."""
    return F.linear(x, weight)
