"""Inserting ONNX nodes."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Operand = ir.Value | np.ndarray | float | int | None
"""A value, or a constant: floats are float32, integers int64."""


class Emit:
    """Inserts nodes before one node of a graph.

    Attributes:
        graph: The graph.
        anchor: The node.
        scope: First part of the names of new nodes.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.anchor: ir.Node | None = None
        self.scope = ""
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._names: collections.Counter[str] = collections.Counter()

    def at(self, anchor: ir.Node, scope: str) -> None:
        """Moves on to another node."""
        self.anchor, self.scope = anchor, scope

    def __call__(
        self, operator: str, *operands: Operand, name: str | None = None, **attributes: Any
    ) -> ir.Value:
        """Inserts a node.

        Args:
            operator: Of ONNX's own domain.
            *operands: Its inputs.
            name: Of the result; by default made up.
            **attributes: Its attributes.

        Returns:
            Its only result.
        """
        inputs = [x if x is None or isinstance(x, ir.Value) else self.constant(x) for x in operands]
        node = ir.node(operator, inputs, attributes=attributes or None, version=None)
        node.name = self._own_name(f"{self.scope}/{operator}")
        result = node.outputs[0]
        result.name = name
        assert self.anchor is not None
        self.graph.insert_before(self.anchor, node)
        return result

    def _own_name(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}_{self._names[name]}"

    def constant(self, value: np.ndarray | float | int) -> ir.Value:
        """An initializer of this value; equal ones are one."""
        kind = (
            None
            if isinstance(value, np.ndarray)
            else np.float32
            if isinstance(value, float)
            else np.int64
        )
        array = np.asarray(value, kind)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(f"constant.{len(self._constants)}")
            made = self._constants[key]
            made.const_value = ir.tensor(array, name=made.name)
            made.shape, made.dtype = ir.Shape(array.shape), made.const_value.dtype
        return self._constants[key]

    def initializer(self, name: str) -> ir.Value:
        """A new initializer, to be given its value."""
        value = ir.Value(name=name)
        value.const_value = ir.tensor(np.zeros((), np.float32), name=name)
        self.graph.initializers[name] = value
        return value

    def cast(self, x: ir.Value, to: ir.DataType) -> ir.Value:
        """``x`` in another type."""
        return self("Cast", x, to=int(to))

    def joined(self, parts: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values one after the other along an axis."""
        return parts[0] if len(parts) == 1 else self("Concat", *parts, axis=axis)

    def grouped(self, x: ir.Value, sizes: Sequence[int]) -> ir.Value:
        """[B, L, d] with d in parts of these sizes."""
        return self("Reshape", x, np.array([0, 0, *sizes], np.int64))
