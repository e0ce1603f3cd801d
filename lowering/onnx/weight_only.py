"""A program whose activations are not quantized, only its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from starquant_fx.operators import op
from starquant_fx.program import drop_unread_tensors

aten = torch.ops.aten


def weights_only(module: fx.GraphModule) -> None:
    """Takes activation quantizers out of a fused graph: linears multiply floats by restored weights.

    Args:
        module: A program's module; it is changed.
    """
    graph = module.graph
    before: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target in (op("transform_quantize"), op("quantize_activation")):
            with graph.inserting_before(node):
                before[node] = _before_quantizer(graph, node)
        elif node.target in (op("quantized_linear"), op("dequantize_activation")):
            x = before[node.args[0].args[0]]
            with graph.inserting_before(node):
                new = x if node.target == op("dequantize_activation") else _linear(graph, node, x)
            node.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    drop_unread_tensors(module)


def _before_quantizer(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """What a quantizer reads, with the transforms that are one operator with it."""
    x: Any = node.args[0]
    if node.target == op("quantize_activation"):
        assert isinstance(x, fx.Node)
        return x
    _, state, means, factors, structure, shared, bounds, matrix, offset, *_ = node.args
    call = graph.call_function
    if matrix is not None:
        x = call(op("compensate"), (x, matrix, offset))
    if means is not None:
        x = call(op("center"), (x, state, means))
    if factors:
        x = call(op("rotate"), (x, factors, structure))
    if bounds:
        x = call(op("gate"), (x, state, shared, bounds))
    return x


def _linear(graph: fx.Graph, node: fx.Node, x: fx.Node) -> fx.Node:
    _, _, _, packed, scale, _, bits, bias, state, state_bias, dtype = node.args
    features = x.meta["val"].shape[-1] if "val" in x.meta else _features(x)
    call = graph.call_function
    weight = call(op("dequantize_weight"), (packed, scale, bits, features, dtype))
    y = call(aten.linear.default, (x, weight, bias))
    return y if state_bias is None else call(op("add_state_bias"), (y, state, state_bias))


def _features(x: fx.Node) -> int:
    """Channels of a node that was made here: transforms keep them."""
    while "val" not in x.meta:
        source = x.args[0]
        assert isinstance(source, fx.Node)
        x = source
    return int(x.meta["val"].shape[-1])
