"""A stage as a tree of modules for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from starquant_fx.inspection import folding, wording
from starquant_fx.inspection.kinds import Kind, kinds
from starquant_fx.inspection.recording import Node, Stage

TOGETHER = (Kind.ROTARY, Kind.NORM, Kind.LAYOUT)
"""Kinds of which only the number is shown."""


def tree(
    stage: Stage, *, all: bool = False, nodes: bool = False, title: bool = True
) -> RenderableType:
    """A stage by module, with roles and bits.

    Args:
        stage: The stage.
        all: Every layer, also where several are alike.
        nodes: Every node, with what it gives and who made it.
        title: Whether to begin with the stage's name.

    Returns:
        What rich prints.
    """
    known = kinds(stage)
    top = folding.tree_of(stage)
    heading = Text.assemble(
        (stage.name, wording.NAME), f"  {wording.plural(len(stage.nodes), 'node')}"
    )
    root = Tree(heading if title else Text(wording.plural(len(stage.nodes), "node"), wording.QUIET))
    if top.nodes:
        own = root.add(_line("outside of modules", top.nodes, known, 1))
        if nodes:
            _add_nodes(own, top.nodes)
    _add(root, top, known, fold=not all, nodes=nodes)
    return Lines(root)


def _add(
    place: Tree, module: folding.Module, known: Mapping[str, Kind], *, fold: bool, nodes: bool
) -> None:
    for group in folding.groups(module, fold):
        inner = group.module
        branch = place.add(_line(group.title, inner.nodes, known, group.count))
        if nodes:
            _add_nodes(branch, inner.nodes)
        _add(branch, inner, known, fold=fold, nodes=nodes)


def _line(title: str, nodes: list[Node], known: Mapping[str, Kind], count: int) -> Text:
    """A module: its name, how many are alike, bits and role of its product, and what it computes."""
    line = Text.assemble((wording.plain(title), wording.NAME))
    if count > 1:
        line.append(f" ({count} alike)", "magenta")
    product = next((n for n in nodes if known[n.name] is Kind.LINEAR), None)
    marked = product or next((n for n in nodes if n.bits), None)
    if product is not None and product.role:
        line.append(f"  {wording.plain(product.role)}", "blue")
    if marked is not None:
        line.append("  ").append_text(wording.bits(marked.bits))
    if nodes:
        line.append(f"  {wording.plain(summary(nodes, known))}", wording.QUIET)
    return line


def summary(nodes: list[Node], known: Mapping[str, Kind]) -> str:
    """What nodes compute, such as ``rotary x22, scaled_dot_product_attention``."""
    names = [
        known[n.name].value if known[n.name] in TOGETHER else wording.operator(n) for n in nodes
    ]
    return wording.listed(Counter(names).items())


def _add_nodes(place: Tree, nodes: list[Node]) -> None:
    for node in nodes:
        line = Text.assemble(
            wording.plain(node.name), "  ", (wording.plain(wording.operator(node)), "blue")
        )
        if node.bits:
            line.append("  ").append_text(wording.bits(node.bits))
        line.append(f"  {wording.plain(', '.join(node.outputs))}")
        line.append(f"  by {wording.plain(node.made_by)}", wording.QUIET)
        place.add(line)
