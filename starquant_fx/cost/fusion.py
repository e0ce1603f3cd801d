"""Which calls are one kernel under ``torch.compile``: elementwise neighbours between kernels that stay closed.

Two elementwise calls are one kernel if one reads the other's result, views between them included, and as many
closed kernels lie before both on the longest path. A compiler's limits, its duplicating and splitting of work, are not
modelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from starquant_fx.cost.calls import operator_name
from starquant_fx.cost.work import FORMULAS, Kind


def source_of(node: fx.Node) -> fx.Node:
    """What a node is a view of; itself if it is none."""
    while node.op == "call_function" and _is_view(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _is_view(node: fx.Node) -> bool:
    known = FORMULAS.get(operator_name(node.target))
    return known is not None and known is FORMULAS["aten.view"]


def fused_kernels(nodes: Iterable[fx.Node], kinds: Mapping[fx.Node, Kind]) -> dict[fx.Node, int]:
    """Numbers the kernels that a graph becomes.

    Args:
        nodes: In order.
        kinds: Of every call.

    Returns:
        The kernel of every call that is not a view.
    """
    depth: dict[fx.Node, int] = {}
    group: dict[fx.Node, int] = {}
    members: dict[int, list[fx.Node]] = {}
    for number, node in enumerate(nodes):
        inputs = [source_of(n) for n in node.all_input_nodes]
        kind = kinds.get(node)
        before = [depth[n] + (kinds.get(n) is Kind.KERNEL) for n in inputs if n in depth]
        depth[node] = max(before, default=0)
        if kind is None or kind is Kind.VIEW:
            continue
        group[node], members[number] = number, [node]
        if kind is Kind.ELEMENTWISE:
            for source in inputs:
                joined = kinds.get(source) is Kind.ELEMENTWISE and depth[source] == depth[node]
                if joined and group[source] != group[node]:
                    other = members.pop(group[node])
                    members[group[source]] += other
                    group.update(dict.fromkeys(other, group[source]))
    return group
