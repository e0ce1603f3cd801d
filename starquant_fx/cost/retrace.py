"""Fake values for nodes that targets added after the last pass."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

EXAMPLE_ROWS = 7
"""Differs from other sizes of the example inputs."""


def retrace(module: fx.GraphModule, mode: FakeTensorMode) -> fx.GraphModule:
    """Gives every node its fake value, in place.

    Args:
        module: A lowered module, or one that ``at_rows`` made; most nodes have their values. An input ``rows`` is [R].
        mode: The program's.

    Returns:
        The module.
    """
    for node in module.graph.nodes:
        if node.op == "placeholder" and "val" not in node.meta:
            context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
            example = torch.zeros(EXAMPLE_ROWS, dtype=torch.int64)
            node.meta["val"] = mode.from_tensor(example, symbolic_context=context)
    inputs = [n.meta["val"] for n in module.graph.nodes if n.op == "placeholder"]
    with torch.no_grad():
        _Retrace(module, mode).propagate_dont_convert_inputs(*inputs)
    return module


class _Retrace(FakeTensorProp):
    """Computes values that are missing, those of our operators, and what reads a value that changed."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module, mode)
        self._held = mode
        self._changed: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            value = operator.attrgetter(str(n.target))(self.module)
            fake = isinstance(value, FakeTensor)
            n.meta["val"] = value if fake else self._held.from_tensor(value, static_shapes=True)
            return n.meta["val"]
        if n.op != "call_function":
            return n.meta["val"] if n.op == "placeholder" else super().run_node(n)
        before = n.meta.get("val")
        known = before is not None and not str(n.target).startswith("starquant.")
        if known and self._changed.isdisjoint(n.all_input_nodes):
            return before
        found = super().run_node(n)
        if _form(before) != _form(found):
            self._changed.add(n)
        return found


def _form(value: object) -> object:
    if isinstance(value, (tuple, list)):
        return tuple(map(_form, value))
    if isinstance(value, Tensor):
        return value.dtype, *map(str, (*value.shape, *value.stride()))
    return str(value)
