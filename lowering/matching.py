"""How targets find forms in a graph and make their nodes other calls."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true


def become(node: fx.Node, target: Any, *arguments: Any) -> None:
    """Makes a node another call; what it is read by and its facts stay."""
    node.target, node.args, node.kwargs = target, arguments, {}


def call_before(node: fx.Node, target: Any, arguments: tuple[Any, ...]) -> fx.Node:
    """Inserts a call before a node; tables that stand behind it and that the call reads move before it."""
    with node.graph.inserting_before(node):
        call = node.graph.call_function(target, arguments)
    for source in call.all_input_nodes:
        if source > call:
            call.prepend(source)
    return call


def arguments_of(node: Any, target: object) -> tuple[Any, ...]:
    """The arguments of a node that calls this operator; else nothing."""
    return tuple(node.args) if isinstance(node, fx.Node) and node.target == target else ()


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are equal whatever the batch and the length."""
    return statically_known_true(a == b)


Types = tuple[torch.dtype, ...]
"""Float types that a target's kernels keep as they are."""


def alike(types: Types, *nodes: Any) -> bool:
    """Whether all are nodes whose tensors have the same sizes and the same one of some types."""
    values = [node.meta.get("val") if isinstance(node, fx.Node) else None for node in nodes]
    first = values[0]
    return isinstance(first, torch.Tensor) and all(
        isinstance(v, torch.Tensor)
        and v.dtype == first.dtype in types
        and v.dim() == first.dim()
        and all(same(a, b) for a, b in zip(v.shape, first.shape, strict=True))
        for v in values
    )


def tensors_of(module: fx.GraphModule, value: Any) -> Any:
    """The tensors that nodes in an argument read."""
    return fx.map_arg(value, lambda n: operator.attrgetter(str(n.target))(module))
