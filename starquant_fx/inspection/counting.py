"""Operations and bytes of a recording's nodes, each kind of call counted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import sympy
from torch import fx

from starquant_fx.cost.calls import Call, bound, operator_name, stored, tensors
from starquant_fx.cost.graph import FORMULA_MODULES  # noqa: F401  (importing it fills the registry)
from starquant_fx.cost.shapes import Shape, at
from starquant_fx.cost.work import Kind, work_of
from starquant_fx.inspection.reading import Read
from starquant_fx.inspection.recording import Node

Signature = tuple[object, ...]


class Counter:
    """Counts by the formulas of ``starquant_fx.cost``; alike calls of alike layers are one.

    Args:
        shape: Tokens of the forward.
        rename: Puts B and L in the place of a capture's symbols.
    """

    def __init__(self, shape: Shape, rename: Callable[[sympy.Expr], sympy.Expr]) -> None:
        self._shape = shape
        self._rename = rename
        self._known: dict[Signature, tuple[float, float] | None] = {}

    def count(
        self, node: fx.Node, outputs: Sequence[str], read: Read, found: Mapping[str, Node]
    ) -> tuple[float, float] | None:
        """Operations and bytes of a node as a kernel of its own; None for inputs and outputs.

        Args:
            node: With fake values in its and its inputs' meta.
            outputs: Types and sizes of its results.
            read: What it reads.
            found: Descriptions of the nodes before it.
        """
        if node.op != "call_function":
            return None
        sources = tuple(
            (s.argument, found[s.node].outputs[s.output : s.output + 1])
            for s in read.sources
            if s.node in found
        )
        kinds = tuple((name, kind) for name, _, kind in read.tensors)
        signature = (node.target, tuple(outputs), sources, kinds, tuple(read.arguments))
        if signature not in self._known:
            self._known[signature] = self._counted(node)
        return self._known[signature]

    def _counted(self, node: fx.Node) -> tuple[float, float]:
        values = fx.map_arg(bound(node), lambda n: n.meta.get("val"))
        results = tuple(tensors(node.meta.get("val")))
        work = work_of(Call(operator_name(node.target), values, results))
        if work.kind is Kind.VIEW:
            return 0.0, 0.0
        operations = sum(self._at(count) for count in work.operations.values())
        moved = sum(self._at(stored(result)) for result in results)
        for name, value in values.items():
            for one in tensors(value):
                moved += self._at(work.reads.get(name, stored(one)))
        return float(operations), moved

    def _at(self, expression: sympy.Expr) -> float:
        return at(self._rename(sympy.sympify(expression)), self._shape)
