"""From PyTorch's operators to ONNX's; ``starquant::`` operators become nodes of a domain of their own."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnxscript import opset18, optimizer, values
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from starquant_fx.errors import LoweringError, cause
from starquant_fx.operators import NAMESPACE, names, op

Formal = onnx.defs.OpSchema.FormalParameter
OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional
KINDS = {
    "int": onnx.defs.OpSchema.AttrType.INT,
    "bool": onnx.defs.OpSchema.AttrType.INT,
    "str": onnx.defs.OpSchema.AttrType.STRING,
    "List[int]": onnx.defs.OpSchema.AttrType.INTS,
    "List[float]": onnx.defs.OpSchema.AttrType.FLOATS,
}
TYPES = [
    f"tensor({name})"
    for name in ("float", "float16", "bfloat16", "int64", "int32", "uint8", "int8", "bool")
]
OPERATORS: Any = opset18
"""Calls of ONNX operators; the model's opset decides their version."""
FACTORS = 3
"""Most factors of a basis."""


def translate(
    module: nn.Module,
    mode: FakeTensorMode,
    inputs: Mapping[str, tuple[Tensor, Mapping[int, str]]],
    outputs: Sequence[str],
    opset: int,
) -> ir.Model:
    """An ONNX model of a graph.

    Args:
        module: It calls ``aten`` and ``starquant`` operators; its tensors, which may be fake, are initializers of the
            result by their qualified names, without values.
        mode: Of the fake tensors.
        inputs: In order, by name: an example, and the names of its axes of any size.
        outputs: Names of the results, in order.
        opset: Version of ONNX's operators.

    Returns:
        The model. Nodes of the domain ``starquant`` have the operator's name; inputs are its tensors in order (a list
        of tensors last, ``FACTORS`` of them, missing ones None), attributes its other arguments.

    Raises:
        LoweringError: An operator has no ONNX form.
    """
    examples = tuple(example for example, _ in inputs.values())
    axes = tuple(dict.fromkeys(sizes, Dim.DYNAMIC) for _, sizes in inputs.values())
    try:
        with mode, torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            fakes = tuple(mode.from_tensor(x) for x in examples)
            exported = torch.export.export(module, fakes, dynamic_shapes=axes, strict=False)
            made = torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=opset,
                optimize=False,
                verbose=False,
                custom_translation_table=_translations(),
            )
    except Exception as error:
        raise LoweringError(
            "the graph has no ONNX form",
            where="export_onnx",
            expected="operators that torch.onnx can translate",
            got=cause(error),
            hint="inspect the graph for the operator that is named",
        ) from error
    assert made is not None
    model = made.model
    _name(model, inputs, outputs)
    return model


@contextlib.contextmanager
def _quiet() -> Any:
    """Drops what the exporter prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@functools.cache
def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """One node for every operator of ours, and forms that runtimes know better than the exporter's."""
    own = {op(name): _translation(name) for name in names()}
    return {**own, torch.ops.aten.rms_norm.default: _rms_norm}


def _rms_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    """``aten.rms_norm`` over the last axes, in the form that onnxruntime makes one kernel of (with a weight only)."""
    axes = np.arange(-len(normalized_shape), 0)
    tiny = torch.finfo(torch.float32).eps if eps is None else eps
    mean = OPERATORS.ReduceMean(OPERATORS.Pow(x, _constant(np.float32(2))), _constant(axes))
    root = OPERATORS.Sqrt(OPERATORS.Add(mean, _constant(np.float32(tiny))))
    scale = _constant(np.ones(normalized_shape, np.float32)) if weight is None else weight
    return OPERATORS.Mul(OPERATORS.Div(x, root), scale)


def _constant(value: Any) -> Any:
    return OPERATORS.Constant(value=ir.serde.serialize_tensor(ir.tensor(value)))


def _translation(name: str) -> Callable[..., Any]:
    schema = op(name)._schema
    tensors, lists, attributes = list[str](), list[str](), dict[str, Any]()
    for argument in schema.arguments:
        kind = str(argument.type)
        if kind in ("Tensor", "Optional[Tensor]"):
            tensors.append(argument.name)
        elif kind == "List[Tensor]":
            lists.append(argument.name)
        else:
            attributes[argument.name] = KINDS.get(kind, onnx.defs.OpSchema.AttrType.INT)
    parameters = [*tensors, *(f"{one}_{i}" for one in lists for i in range(FACTORS))]
    results = [one.name or f"y{i}" for i, one in enumerate(schema.returns)]
    definition = onnx.defs.OpSchema(
        name,
        NAMESPACE,
        1,
        inputs=[Formal(p, f"T{i}", param_option=OPTIONAL) for i, p in enumerate(parameters)],
        outputs=[Formal(r, f"R{i}") for i, r in enumerate(results)],
        type_constraints=[
            *((f"T{i}", TYPES, "") for i in range(len(parameters))),
            *((f"R{i}", TYPES, "") for i in range(len(results))),
        ],
        attributes=[
            onnx.defs.OpSchema.Attribute(n, kind, required=False) for n, kind in attributes.items()
        ],
    )
    call: Any = values.Op(values.Opset(NAMESPACE, 1), name, definition)

    def translated(*arguments: Any) -> Any:
        named = dict(zip([a.name for a in schema.arguments], arguments, strict=True))
        more = [x for one in lists for x in [*named[one], *[None] * FACTORS][:FACTORS]]
        options = {
            n: named[n]
            for n in attributes
            if not isinstance(named[n], torch.dtype) and named[n] != []
        }
        return call(*(named[t] for t in tensors), *more, **options)

    return translated


def _name(
    model: ir.Model, inputs: Mapping[str, tuple[Tensor, Mapping[int, str]]], outputs: Sequence[str]
) -> None:
    """Names inputs, outputs and sizes as they were asked for."""
    sizes: dict[str, str] = {}
    for value, (name, (_, axes)) in zip(model.graph.inputs, inputs.items(), strict=True):
        value.name = name
        assert value.shape is not None
        sizes.update({str(value.shape[axis]): size for axis, size in axes.items()})
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, sizes)) + r")\b") if sizes else None
    for value in [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]:
        if value.shape is not None and pattern is not None:
            dims = [
                d if isinstance(d, int) else pattern.sub(lambda m: sizes[m[0]], str(d))
                for d in value.shape
            ]
            value.shape = ir.Shape(dims)


def simplify(model: ir.Model) -> None:
    """Folds constants and removes what computes nothing; nodes of other domains stay as they are."""
    with _quiet():
        optimizer.optimize(model, input_size_limit=1024, output_size_limit=1024)
