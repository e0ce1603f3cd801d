"""The most probable tokens at some positions, as samplers at temperature 0 read them, instead of logits."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from starquant_fx.lowering.matching import arguments_of
from starquant_fx.operators import op

aten = torch.ops.aten
BY_TOKEN = (0, 1, 2, 8, 10)
"""Arguments of ``tile_linear`` with a row a token: codes, scale, zero, state, coefficients."""


def greedy_at_rows(module: fx.GraphModule, fused: bool) -> fx.GraphModule:
    """A module that returns what ``reference.greedy`` makes of another's logits, and shares its tensors.

    Args:
        module: What ``at_rows`` returned: logits [1, R, vocab].
        fused: Whether the head may be one with the choice, by the Triton kernels, so that logits are never stored.

    Returns:
        It returns the largest logit, the token and its probability, each [R].
    """
    graph = fx.Graph()
    logits = graph.graph_copy(module.graph, {})
    assert isinstance(logits, fx.Node)
    call = _fused(graph, logits) if fused else None
    if call is None:
        flat = graph.call_function(aten.flatten.using_ints, (logits, 0, 1))
        call = graph.call_function(op("greedy"), (flat, False))
    graph.output(tuple(graph.call_function(operator.getitem, (call, i)) for i in range(3)))
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule(module, graph).eval()


def _fused(graph: fx.Graph, logits: fx.Node) -> fx.Node | None:
    """One call for the head and the choice; None where the head is no linear that the kernels know."""
    tiles = torch.ops.starquant
    if head := arguments_of(logits, aten.linear.default):
        x, weight, bias = (*head, None)[:3]
        return graph.call_function(tiles.tile_greedy.default, (_rows(graph, x), weight, bias))
    if head := arguments_of(logits, tiles.tile_linear.default):
        *arguments, residual, swiglu, dtype = head
        if residual is None and not swiglu:
            for i in BY_TOKEN:
                arguments[i] = _rows(graph, arguments[i])
            return graph.call_function(tiles.tile_greedy_int8.default, (*arguments, dtype))
    return None


def _rows(graph: fx.Graph, value: Any) -> Any:
    """[1, R, ...] as [R, ...]; None as it is."""
    return None if value is None else graph.call_function(aten.squeeze.dim, (value, 0))
