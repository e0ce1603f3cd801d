"""Which nodes of a stage are one attention block."""

from __future__ import annotations

import networkx as nx

from starquant_fx.errors import InputError
from starquant_fx.inspection.collapsing import part_of
from starquant_fx.inspection.kinds import Kind, graph, is_linear, kinds
from starquant_fx.inspection.recording import Stage


def attention_block(stage: Stage, block: str = "") -> set[str]:
    """Names of the nodes from the norm before an attention to the sum behind its output projection.

    Args:
        stage: The stage.
        block: Path of the module that holds it; empty = that of the first attention.

    Returns:
        The names; all of the module where no output projection is found.

    Raises:
        InputError: There is no such module, or no attention in it.
    """
    known = kinds(stage)
    attentions = [name for name, kind in known.items() if kind is Kind.ATTENTION]
    inside = part_of(stage, block)
    attention = next((name for name in attentions if name in inside), None)
    if attention is None:
        raise InputError(
            "there is no attention to draw",
            where=f"stage {stage.name}, {block or 'all modules'}",
            expected="a module that computes attention",
            got="none",
            hint=f"for example {stage.nodes[attentions[0]].module!r}"
            if attentions
            else "draw the whole stage",
        )
    if not block:
        inside = part_of(stage, stage.nodes[attention].module)
    whole = graph(stage)
    part = whole.subgraph(inside)
    behind = nx.descendants(part, attention)
    output = next(
        (name for name in stage.nodes if name in behind and is_linear(stage.nodes[name])), None
    )
    if output is None:
        return inside
    first = [name for name in stage.nodes if name in nx.descendants(part, output)]
    ended = next(
        (name for name in first if known[name] is Kind.ELEMENTWISE), first[-1] if first else output
    )
    return nx.ancestors(part, ended) | {ended}
