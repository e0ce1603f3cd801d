"""What the ONNX forms of operators share: the graph, its weights, and arguments of nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from torch import Tensor

from starquant_fx.errors import LoweringError
from starquant_fx.lowering.onnx.emit import Emit
from starquant_fx.lowering.onnx.weights import Weights, fixed


@dataclasses.dataclass
class Context:
    """Of one model.

    Attributes:
        emit: Inserts nodes.
        weights: Values of initializers.
    """

    emit: Emit
    weights: Weights

    def inputs(self, node: ir.Node, count: int) -> list[Any]:
        """So many inputs of a node; None where there is none."""
        return [*node.inputs, *[None] * count][:count]

    def integer(self, node: ir.Node, name: str) -> int:
        """An attribute."""
        return node.attributes[name].as_int()

    def integers(self, node: ir.Node, name: str) -> list[int]:
        """An attribute; nothing if it is empty."""
        return list(node.attributes[name].as_ints()) if name in node.attributes else []

    def floats(self, node: ir.Node, name: str) -> list[float]:
        """An attribute; nothing if it is empty."""
        return list(node.attributes[name].as_floats()) if name in node.attributes else []

    def text(self, node: ir.Node, name: str) -> str:
        """An attribute."""
        return node.attributes[name].as_string()

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Sizes of an initializer."""
        return fixed(value)

    def features(self, value: ir.Value) -> int:
        """Size of the last axis, which must be fixed."""
        size = None if value.shape is None else value.shape[-1]
        if isinstance(size, int):
            return size
        raise LoweringError(
            "the number of channels is not known",
            where=str(value.name),
            expected="a fixed size of the last axis",
            got=str(value.shape),
            hint="report the model's configuration",
        )

    def value(self, source: ir.Value) -> Tensor:
        """The values of an initializer that is made from the program's tensors."""
        return self.weights.read(str(source.name))

    def part(self, source: ir.Value, index: int) -> ir.Value:
        """The initializer ``source[index]``."""
        shape = self.shape(source)[1:]
        return self.derived(source, f"{source.name}_{index}", lambda t: t[index], shape)

    def derived(
        self,
        source: ir.Value,
        name: str,
        convert: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """An initializer made from another one's tensor; asked for twice it is the same."""
        known = self.emit.graph.initializers.get(name)
        if known is not None:
            return known
        made = self.emit.initializer(name)
        self.weights.set(made, convert, shape, dtype, str(source.name))
        return made
