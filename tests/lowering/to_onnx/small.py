"""Small modules of single operators as ONNX models, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from starquant_fx.lowering.onnx.flavours import FLAVOURS
from starquant_fx.lowering.onnx.lower import lower
from starquant_fx.lowering.onnx.translate import simplify, translate
from starquant_fx.lowering.onnx.weights import Weights

FEATURES, STATES = 24, 2


class Calls(nn.Module):
    """A function of inputs and of tensors that are held by name."""

    def __init__(self, function: Callable[..., Any], **tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        self.starquant = nn.ModuleDict({"site": nn.Module()})
        for name, tensor in tensors.items():
            self.starquant["site"].register_buffer(name, tensor)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Any:
        """Calls the function."""
        held = dict(self.starquant["site"].named_buffers())
        return self.function(x, **held) if state is None else self.function(x, state, **held)


def exported(
    module: Calls, inputs: Mapping[str, Tensor], outputs: list[str], flavour: str = "qdq"
) -> ir.Model:
    """The ONNX model of a module; the first two axes of inputs are free."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    axes = {0: "batch", 1: "length"}
    mask = {0: "batch", 2: "length", 3: "length"}
    named = {name: (x, mask if x.dim() == 4 else axes) for name, x in inputs.items()}
    model = translate(module, mode, named, outputs, 21)
    weights = Weights(dict(module.named_buffers()))
    weights.bind(model)
    simplify(model)
    lower(model, weights, FLAVOURS[flavour])
    return model


def run(model: ir.Model, inputs: Mapping[str, Tensor], folder: Path) -> list[Tensor]:
    """What onnxruntime makes of it, after the checker."""
    path = folder / "model.onnx"
    ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(x) for x in session.run(None, arrays(inputs))]


def run_by_definition(model: ir.Model, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What ONNX's own reference implementation makes of it."""
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    return [torch.from_numpy(np.asarray(x)) for x in evaluator.run(None, arrays(inputs))]


def arrays(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Inputs as onnxruntime takes them."""
    return {name: value.numpy() for name, value in inputs.items()}
