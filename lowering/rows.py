"""Logits at some positions only, for samplers, which read those of masked tokens.

What works on positions one by one after the last attention is then computed for those positions alone.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

INPUT = "rows"
"""Name of the input that says which."""
BY_POSITION = frozenset(
    [
        *(f"aten.{name}.Tensor" for name in ("add", "div", "mul", "sub")),
        *(
            f"aten.{name}.default"
            for name in ("_to_copy", "gelu", "linear", "neg", "relu", "silu", "tanh")
        ),
        *(f"aten.{name}.default" for name in ("layer_norm", "rms_norm")),
        *(f"starquant.{name}.default" for name in ("center", "rotate", "gate", "add_state_bias")),
        *(f"starquant.{name}.default" for name in ("compensate", "compensate_by_state")),
        *(f"starquant.{name}.default" for name in ("split_low_rank", "add_low_rank")),
        *(f"starquant.{name}.default" for name in ("quantize_activation", "dequantize_activation")),
        *(f"starquant.{name}.default" for name in ("transform_quantize", "quantized_linear")),
        *(f"starquant.{name}.default" for name in ("site_codes", "panel_linear", "panel_linears")),
        *(f"starquant.{name}.default" for name in ("tile_prepare", "tile_site", "tile_linear")),
    ]
)
"""Operators whose results at a position depend on their inputs at that position only."""


def at_rows(module: fx.GraphModule) -> fx.GraphModule:
    """A module that takes ``rows`` after a lowered module's inputs, and shares its tensors.

    Args:
        module: Token ids [B, L] and more in, logits [B, L, vocab] out.

    Returns:
        With ``rows`` [R] int64, positions of the flattened [B L], it returns logits [1, R, vocab].
    """
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    result = graph.graph_copy(module.graph, copies)
    assert isinstance(result, fx.Node)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(inputs[-1]):
        rows = graph.placeholder(INPUT)
    output = graph.output(result)
    chosen, fixed = _by_position(graph, output)
    taken: dict[fx.Node, fx.Node] = {}
    for node in [n for n in graph.nodes if n in chosen or n is output]:
        for source in node.all_input_nodes:
            if source not in chosen and source not in fixed:
                if source not in taken:
                    taken[source] = _select(source, rows)
                node.replace_input_with(source, taken[source])
    graph.eliminate_dead_code()
    graph.lint()
    return fx.GraphModule(module, graph).eval()


def _by_position(graph: fx.Graph, output: fx.Node) -> tuple[set[fx.Node], set[fx.Node]]:
    """The nodes that only chosen positions are needed of, and those that do not depend on the inputs."""
    ids = next(node for node in graph.nodes if node.op == "placeholder")
    lead = _sizes(ids)
    fixed: set[fx.Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        computed = node.op == "call_function" and bool(sources) and fixed.issuperset(sources)
        if node.op == "get_attr" or computed:
            fixed.add(node)
    chosen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        producer = node.args[0] if node.target == operator.getitem else node
        if (
            isinstance(producer, fx.Node)
            and str(producer.target) in BY_POSITION
            and chosen.union([output]).issuperset(node.users)
            and all(s in fixed or _sizes(s)[:2] == lead for s in producer.all_input_nodes)
        ):
            chosen.add(node)
    # A result of several is taken from the others' rows only if the operator itself is.
    chosen -= {n for n in chosen if n.target == operator.getitem and n.args[0] not in chosen}
    return chosen, fixed


def _sizes(node: fx.Node) -> list[str]:
    """Sizes as text, so that comparing symbolic ones decides nothing about them."""
    value = node.meta.get("val")
    return [str(size) for size in value.shape] if isinstance(value, Tensor) else []


def _select(source: fx.Node, rows: fx.Node) -> fx.Node:
    """The chosen positions of [B, L, ...] as [1, R, ...]."""
    graph, aten = source.graph, torch.ops.aten
    with graph.inserting_after(rows if source.op == "placeholder" else source):
        flat = graph.call_function(aten.flatten.using_ints, (source, 0, 1))
    with graph.inserting_after(flat):
        picked = graph.call_function(aten.index_select.default, (flat, 0, rows))
    with graph.inserting_after(picked):
        return graph.call_function(aten.unsqueeze.default, (picked, 0))
