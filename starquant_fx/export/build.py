"""The ONNX model of a compiled model, in memory; its tensors are read when they are written."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, fx

from starquant_fx.compiled import CompiledModel
from starquant_fx.lowering.greedy import greedy_at_rows
from starquant_fx.lowering.onnx.flavours import FLAVOURS
from starquant_fx.lowering.onnx.lower import lower
from starquant_fx.lowering.onnx.translate import simplify, translate
from starquant_fx.lowering.onnx.weight_only import weights_only
from starquant_fx.lowering.onnx.weights import Weights
from starquant_fx.lowering.rows import INPUT as ROWS
from starquant_fx.lowering.rows import at_rows
from starquant_fx.model_facts import is_shifted
from starquant_fx.pass_manager import propagate
from starquant_fx.program import Program

HEADS = {"logits": ("logits",), "row-logits": ("logits",), "tokens": ("token", "confidence")}
"""What an exported model can return, and the names of its outputs."""
BATCH, LENGTH = "batch", "length"
aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Form:
    """What is exported.

    Attributes:
        flavour: How quantized linears are written: qdq, integer or nbits.
        head: ``logits`` [B, L, vocab]; ``row-logits`` [R, vocab] at an input ``rows`` [R] of positions in the flattened
            [B L]; ``tokens``: the most probable token [R] there and its probability [R].
        opset: Version of ONNX's operators, 21 to 23.
        attention_mask: Whether a padding mask is an input, as the model's sampler gives it.
    """

    flavour: str = "qdq"
    head: str = "logits"
    opset: int = 21
    attention_mask: bool = False


@dataclasses.dataclass(frozen=True)
class Built:
    """An exported model in memory.

    Attributes:
        model: The ONNX model.
        program: What it computes, without weights.
        form: What was asked for.
    """

    model: ir.Model
    program: Program
    form: Form

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in order."""
        return [str(value.name) for value in self.model.graph.inputs]


def build(compiled: CompiledModel, form: Form) -> Built:
    """Captures a compiled model once more, without weights and in float32, and translates it.

    Args:
        compiled: The compiled model.
        form: What to export.

    Returns:
        The model. No tensor of it is in memory that the compiled model does not have there.

    Raises:
        LoweringError: The graph has no such form.
    """
    flavour = FLAVOURS[form.flavour]
    program = compiled.structure(_arguments(compiled, form))
    if flavour.weights_only:
        weights_only(program.module)
        propagate(program)
    module = headed(program.module, form.head)
    inputs = {
        name: _sizes(name, program.placeholder(name))
        for name in (str(n.target) for n in module.graph.nodes if n.op == "placeholder")
    }
    with _quiet():
        model = translate(module, program.fake_mode, inputs, HEADS[form.head], form.opset)
    weights = Weights(compiled.tensors())
    weights.bind(model)
    simplify(model)
    lower(model, weights, flavour)
    for value, name in zip(model.graph.outputs, HEADS[form.head], strict=True):
        value.name = name  # an operator whose result is the model's was replaced by others
    _without_traces(model)
    return Built(model, program, form)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops the exporter's warning that torchvision, which nobody needs here, is not installed."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _without_traces(model: ir.Model) -> None:
    """Takes out what torch notes on nodes: the source lines of this machine that they come from."""
    common.ClearMetadataAndDocStringPass()(model)
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.metadata_props.clear()


def headed(module: fx.GraphModule, head: str) -> fx.GraphModule:
    """A program's module that returns what a head of ``HEADS`` says."""
    if head == "logits":
        return module
    module = at_rows(module)
    if head == "tokens":
        module = greedy_at_rows(module, fused=False)
    graph = fx.Graph()
    result = graph.graph_copy(module.graph, {})
    if head == "tokens":
        assert isinstance(result, tuple)
        graph.output(tuple(result[1:]))
    else:
        graph.output(graph.call_function(aten.squeeze.dim, (result, 0)))
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph).eval()


def reference_of(built: Built, tensors: dict[str, Tensor]) -> fx.GraphModule:
    """The same function by the operators' reference implementations; takes the memory of the weights in float32.

    Args:
        built: What was built; its program receives the tensors.
        tensors: Of the compiled model.
    """
    for name, fake in built.program.tensors().items():
        built.program.set_tensor(name, tensors[name].detach().to("cpu", fake.dtype))
    built.program.module.recompile()
    return headed(built.program.module, built.form.head)


def _arguments(compiled: CompiledModel, form: Form) -> dict[str, Tensor]:
    """The tensors of a call of the kind that the sampler makes."""
    ids = torch.zeros(2, 2, dtype=torch.long)
    if not form.attention_mask:
        return {"input_ids": ids}
    if is_shifted(compiled):
        mask = torch.ones(2, 1, 2, 2, dtype=torch.bool)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": torch.zeros_like(ids)}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _sizes(name: str, node: fx.Node | None) -> tuple[Tensor, dict[int, str]]:
    """An example of an input, and its axes of any size."""
    if name == ROWS:
        return torch.zeros(3, dtype=torch.long), {0: ROWS}
    assert node is not None
    value: Tensor = node.meta["val"]
    if value.dim() == 4:
        return torch.ones(2, 1, 6, 6, dtype=value.dtype), {0: BATCH, 2: LENGTH, 3: LENGTH}
    return torch.ones(2, 6, dtype=value.dtype), {0: BATCH, 1: LENGTH}
