"""Reads a graph as TorchDynamo hands it to a backend: whose it is, and what each of its inputs means."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.source import AttrSource, LocalSource, TensorProperty, TensorPropertySource
from torch._dynamo.symbolic_convert import InstructionTranslator

from starquant_fx.arguments import call_signature
from starquant_fx.capture import skeleton
from starquant_fx.errors import CaptureError, StaleParametersError
from starquant_fx.integrations.parameter_watch import named_tensors

SIZES = (TensorProperty.SIZE, TensorProperty.STRIDE)
WHOLE = (
    "compile the whole model: torch.compile(model, backend='starquant', fullgraph=True) names the line that breaks its "
    "graph; a transformers model needs attn_implementation='sdpa'"
)


@dataclasses.dataclass(frozen=True)
class Size:
    """An input that is a size or stride of another input: its name, which of both, and the axis."""

    of: str
    stride: bool
    axis: int

    def read(self, tensor: Tensor) -> int:
        """Reads it off the other input."""
        return tensor.stride(self.axis) if self.stride else tensor.size(self.axis)


@dataclasses.dataclass(frozen=True)
class Number:
    """An input that is a number the model holds (``dynamic=True`` makes inputs of them): where it is, and its value."""

    where: str
    value: float

    def item(self) -> float:
        """Stands in for the tensor that the graph reads the number from."""
        return self.value

    def check(self, now: Tensor) -> None:
        """Raises a StaleParametersError if the number is another one now."""
        if now.item() != self.value:
            raise StaleParametersError(
                "a number in the model changed after the model was compiled",
                where=self.where,
                expected=str(self.value),
                got=str(now.item()),
                hint="call torch._dynamo.reset(); the next call compiles the model again",
            )


@dataclasses.dataclass(frozen=True)
class DynamoGraph:
    """A graph and the meaning of its inputs.

    Attributes:
        module: The graph; its only result is the logits, in a tuple.
        model: The model it was traced from.
        owned: Index of an input -> qualified name, for parameters and buffers of the model.
        arguments: Index -> name of the model's argument.
        sizes: Index -> which size of which argument.
        numbers: Index -> a number that the model holds.
        examples: Contiguous tensors by argument name, of the shapes of the call that is being compiled.
        dynamic: Axes by argument name that the graph leaves open.
    """

    module: fx.GraphModule
    model: nn.Module
    owned: dict[int, str]
    arguments: dict[int, str]
    sizes: dict[int, Size]
    numbers: dict[int, Number]
    examples: dict[str, Tensor]
    dynamic: dict[str, tuple[int, ...]]


class GraphOfModel(nn.Module):
    """A skeleton of the model that computes what the graph computes, so that a capture names tensors as usual.

    Args:
        traced: The graph and the model.
    """

    def __init__(self, traced: DynamoGraph) -> None:
        super().__init__()
        twin = skeleton(traced.model)
        self._parameters, self._buffers, self._modules = (
            twin._parameters,
            twin._buffers,
            twin._modules,
        )
        self._traced = traced

    def forward(self, **arguments: Tensor) -> Tensor:
        """Computes the logits from the tensors of a call by argument name."""
        traced, tensors = self._traced, named_tensors(self)
        inputs: dict[int, Any] = {index: tensors[name] for index, name in traced.owned.items()}
        inputs.update((index, arguments[name]) for index, name in traced.arguments.items())
        inputs.update(
            (index, size.read(arguments[size.of])) for index, size in traced.sizes.items()
        )
        inputs.update(traced.numbers)
        (logits,) = traced.module(*(inputs[index] for index in sorted(inputs)))
        assert isinstance(logits, Tensor)
        return logits


def read_graph(module: fx.GraphModule, values: Sequence[Any]) -> DynamoGraph:
    """Finds the model that a graph was traced from and the meaning of each input.

    Args:
        module: The graph as a backend gets it.
        values: Its example inputs.

    Returns:
        The graph with its meaning.

    Raises:
        CaptureError: The graph belongs to no module, is only a part of it, or does more than compute logits.
    """
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    model = _model_of([_source(n) for n in placeholders], values)
    names = {id(tensor): name for name, tensor in named_tensors(model).items()}
    traced = DynamoGraph(module, model, {}, {}, {}, {}, {}, {})
    for index, (node, value) in enumerate(zip(placeholders, values, strict=True)):
        if id(value) in names:
            traced.owned[index] = names[id(value)]
        else:
            _read_input(traced, index, node, value)
    _check(traced)
    ids = traced.examples["input_ids"]
    return dataclasses.replace(traced, examples={"input_ids": ids, **traced.examples})


def _read_input(traced: DynamoGraph, index: int, node: fx.Node, value: Any) -> None:
    """Notes what an input means that is no tensor of the model."""
    source = _source(node)
    if isinstance(source, TensorPropertySource) and source.prop in SIZES:
        of = _argument(source.base, traced.model)
        stride = source.prop is TensorProperty.STRIDE
        traced.sizes[index] = Size(of, stride, int(source.idx or 0))
    elif isinstance(source, AttrSource) and isinstance(value, Tensor) and value.dim() == 0:
        traced.numbers[index] = Number(source.name, value.item())
    else:
        name = _argument(source, traced.model)
        traced.arguments[index] = name
        traced.examples[name] = torch.ones(value.shape, dtype=value.dtype)
        shape = node.meta["example_value"].shape
        traced.dynamic[name] = tuple(axis for axis, size in enumerate(shape) if _is_open(size))


def _check(traced: DynamoGraph) -> None:
    """Raises a CaptureError unless the graph maps token ids to one tensor."""
    if "input_ids" not in traced.examples:
        raise _partial(
            "the graph takes no token ids",
            where="graph",
            expected="an input named input_ids",
            got=", ".join(traced.examples) or "no inputs",
        )
    (results,) = next(n for n in traced.module.graph.nodes if n.op == "output").args
    if len(results) != 1:
        raise CaptureError(
            "the graph returns more than logits",
            where="output",
            expected="one tensor",
            got=f"{len(results)} tensors",
            hint=f"ask the original model for hidden states or a loss; if it is not that, {WHOLE}",
        )


def _source(node: fx.Node) -> Any:
    """Where TorchDynamo reads an input of the graph from."""
    return node.meta["grapharg"].source


def _partial(what: str, **details: str) -> CaptureError:
    return CaptureError(what, **details, hint=WHOLE)


def _bases(source: Any) -> Iterator[Any]:
    """A source and what it is read from, innermost first."""
    while source is not None:
        yield source
        source = getattr(source, "base", None)


def _model_of(sources: Sequence[Any], values: Sequence[Any]) -> nn.Module:
    """The outermost module through which the frame that is being compiled reaches its parameters."""
    frame = InstructionTranslator.current_tx()
    scope = {"G": frame.f_globals, "L": frame.f_locals}
    for source, value in zip(sources, values, strict=True):
        if isinstance(value, nn.Parameter):
            owners = [base.get_value(scope, {}, {}) for base in list(_bases(source))[1:]]
            modules = [owner for owner in owners if isinstance(owner, nn.Module)]
            if modules:
                return modules[-1]
    raise _partial(
        "the graph reads no parameters of a module",
        where="graph",
        expected="a whole model",
        got=f"{len(sources)} inputs, none of them a parameter",
    )


def _is_open(size: int | torch.SymInt) -> bool:
    """Whether a size is a symbol that the trace did not pin down to one value."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _argument(source: Any, model: nn.Module) -> str:
    """Name of the model's argument that a source stands for; wrappers of forward pass it through *args or **kwargs."""
    signature = call_signature(model).parameters.values()
    parameters = [p.name for p in signature if p.kind is not inspect.Parameter.VAR_KEYWORD]
    name: object = None
    if isinstance(source, LocalSource):
        name = source.local_name
    elif isinstance(getattr(source, "base", None), LocalSource):
        name = getattr(source, "index", None)
        if isinstance(name, int) and name < len(parameters):
            name = parameters[name]
    if name not in parameters:
        raise _partial(
            "the graph has an input that is no argument of the model",
            where=str(source),
            expected=f"one of {', '.join(parameters)}",
            got=repr(name),
        )
    return str(name)
