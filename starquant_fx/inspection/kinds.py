"""What the nodes of a stage are for, and the stage's graph in networkx."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import networkx as nx

from starquant_fx.inspection.recording import Node, Recording, SiteFacts, Stage
from starquant_fx.inspection.sizes import CODES, element

PRODUCTS = re.compile(
    r"linear|matmul|\b[a-z]*mm\b|einsum|attention|rotate|transform|low_rank|compensate|site|prepare|greedy"
)
"""Of an operator's name: it multiplies matrices."""
ATTENTION = re.compile(r"attention|softmax")


class Kind(Enum):
    """What a node is for; the value is its name in tables."""

    LINEAR = "linear"
    ATTENTION = "attention"
    BASIS = "transform"
    BRANCH = "low-rank branch"
    CODES = "quantizer"
    NORM = "norm"
    ROTARY = "rotary"
    EMBEDDING = "embedding"
    STATE = "token state"
    ELEMENTWISE = "elementwise"
    LAYOUT = "layout"
    END = "input or output"


def graph(stage: Stage) -> nx.DiGraph:
    """The stage as a directed graph from what makes a value to what reads it.

    Args:
        stage: The stage.

    Returns:
        Nodes by name with their ``node``; several edges between two nodes are one, with ``outputs`` that it carries.
    """
    made = nx.DiGraph()
    for name, node in stage.nodes.items():
        made.add_node(name, node=node)
        for source in node.sources:
            if not made.has_edge(source.node, name):
                made.add_edge(source.node, name, outputs=set())
            made.edges[source.node, name]["outputs"].add(source.output)
    return made


def kinds(stage: Stage) -> dict[str, Kind]:
    """What every node of a stage is for.

    Args:
        stage: The stage.

    Returns:
        By name. It is read off operators, parts and neighbours: a model that computes its rotary embedding in an
        unheard-of way has elementwise nodes instead.
    """
    found = {name: _by_itself(node) for name, node in stage.nodes.items()}
    norms = {stage.nodes[name].module for name, kind in found.items() if kind is Kind.NORM} - {""}
    for name, node in stage.nodes.items():
        if node.module in norms and found[name] in (Kind.ELEMENTWISE, Kind.LAYOUT):
            found[name] = Kind.NORM
    for name in _rotary(stage, found):
        if found[name] in (Kind.ELEMENTWISE, Kind.LAYOUT):
            found[name] = Kind.ROTARY
    return found


def site_of(node: Node, recording: Recording) -> SiteFacts | None:
    """The site that a node belongs to, by its own note or by its linear's."""
    if node.site in recording.sites:
        return recording.sites[node.site]
    if not node.linear:
        return None
    return next((s for s in recording.sites.values() if node.linear in s.linears), None)


def is_linear(node: Node) -> bool:
    """Whether a node is the product of a model's linear."""
    return "linear" in node.operator or node.part == "linear"


def makes_codes(node: Node) -> bool:
    """Whether a node makes codes from floats."""
    return (
        bool(node.bits)
        and "dequantize" not in node.operator
        and any(element(kind) in CODES for kind in node.outputs[:1])
    )


def _by_itself(node: Node) -> Kind:
    name = node.operator.rpartition(".")[2]
    if node.operator in ("input", "output"):
        return Kind.END
    if is_linear(node):
        return Kind.LINEAR
    if ATTENTION.search(name):
        return Kind.ATTENTION
    if "low_rank" in name or node.part in ("split", "low_rank"):
        return Kind.BRANCH
    if makes_codes(node) or "quantize" in name or name == "pack":
        return Kind.CODES
    if "token_state" in name or node.part in ("partition", "scatter"):
        return Kind.STATE
    if node.site or node.part:
        return Kind.BASIS
    if "norm" in name:
        return Kind.NORM
    if name == "embedding":
        return Kind.EMBEDDING
    if name == "rotary":
        return Kind.ROTARY
    return Kind.LAYOUT if not node.flops else Kind.ELEMENTWISE


def _rotary(stage: Stage, found: Mapping[str, Kind]) -> set[str]:
    """Nodes before and behind a cosine or a sine, up to the next product, norm or part of a site."""
    free = {n for n, kind in found.items() if kind in (Kind.ELEMENTWISE, Kind.LAYOUT)}
    # a wave beside a norm in one module counts as part of the norm
    waves = [n for n in free if stage.nodes[n].operator in ("aten.cos", "aten.sin")]
    whole = graph(stage)
    inner = whole.subgraph(free)
    behind = {other for wave in waves for other in nx.descendants(inner, wave)}
    before = {other for name in (*waves, *behind) for other in nx.ancestors(inner, name)}
    return {*waves, *behind, *before}
