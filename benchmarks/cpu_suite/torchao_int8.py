"""torchao: int8 weights, int8 activations with a scale per token found at run time, compiled."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from cpu_suite.runner import Runner, block_linears, torch_forward
from cpu_suite.specs import Place
from cpu_suite.weights import load


def build(place: Place) -> Runner:
    """All linears, the head too, as torchao quantizes by default; other operators in float32, which was the faster."""
    torchao = importlib.import_module("torchao.quantization")
    model = load(place, "fp32")
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    held = sum(stored_bytes(linear.weight) for linear in block_linears(model))
    return Runner(torch_forward(model, compiled=True), held, "int8")


def stored_bytes(tensor: Any) -> int:
    """Bytes of a tensor that may be made of others."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        return int(tensor.nbytes)
    names, _ = tensor.__tensor_flatten__()
    return sum(stored_bytes(getattr(tensor, name)) for name in names)
