"""Spans: a graph cut into its blocks, each from one tensor to one tensor."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from torch import fx

from starquant_fx.errors import CalibrationError
from starquant_fx.program import LINEAR, Program, facts

BLOCK = re.compile(r"(.*?\.\d+)\.")
"""A block's qualified name ends at its number: ``model.layers.3`` of ``model.layers.3.mlp.up_proj``."""


@dataclasses.dataclass(frozen=True)
class Span:
    """A piece of a graph.

    Attributes:
        name: Of the block.
        start: The node whose value the block reads; None = the graph's inputs.
        end: The node whose value the block hands on.
        nodes: What computes ``end`` from ``start`` and the graph's inputs and tensors, in graph order, without
            ``start``.
    """

    name: str
    start: fx.Node | None
    end: fx.Node
    nodes: tuple[fx.Node, ...]


def whole_span(graph: fx.Graph) -> Span:
    """The graph from its inputs to its output."""
    nodes = list(graph.nodes)
    (end,) = nodes[-1].all_input_nodes
    return Span("model", None, end, _needed(end, None, {n: i for i, n in enumerate(nodes)}))


def block_spans(program: Program, graph: fx.Graph) -> list[Span]:
    """Cuts a stage of a program into its blocks.

    A cut is where everything that later nodes read of earlier linears is one tensor: the residual stream.

    Args:
        program: The program.
        graph: Graph of one of its stages; linears carry their sites.

    Returns:
        Spans in graph order; together they compute everything up to the end of the last block.

    Raises:
        CalibrationError: Two blocks are joined by more than one tensor.
    """
    names = {site.name: _block(site.name) for site in program.quantized_sites()}
    return _spans(graph, lambda linear: names.get(facts(linear).get("site", "")))


def part_spans(graph: fx.Graph) -> list[Span]:
    """Cuts a captured graph into parts: its blocks, the first one with the embedding, and what follows the last.

    Args:
        graph: The graph; linears have their names.

    Returns:
        Spans in graph order; the last one ends at the output.

    Raises:
        CalibrationError: Two blocks are joined by more than one tensor.
    """
    return _spans(graph, lambda linear: _block(facts(linear)["of"]), to_output=True)


def _spans(
    graph: fx.Graph, block_of: Callable[[fx.Node], str | None], to_output: bool = False
) -> list[Span]:
    """Cuts a graph behind the last linear of every block, the last one at the output if asked to."""
    nodes = list(graph.nodes)
    index = {node: i for i, node in enumerate(nodes)}
    linears: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        if node.target == LINEAR and (name := block_of(node)) is not None:
            linears.setdefault(name, []).append(i)
    spans: list[Span] = []
    start = None
    blocks = sorted(linears, key=lambda name: linears[name][0])
    for name, following in zip(blocks, [*blocks[1:], None], strict=True):
        stop = linears[following][0] if following is not None else len(nodes) - 1
        end = _cut(nodes[:stop], index, linears[name][-1])
        if following is None and to_output:
            (end,) = nodes[-1].all_input_nodes
        if end is None:
            raise CalibrationError(
                "a block cannot be cut out of the graph",
                where=name,
                expected="one tensor between this block and the next",
                got="several, or none",
                hint="compile the model whole" if to_output else "objective=model needs no cuts",
            )
        spans.append(Span(name, start, end, _needed(end, start, index)))
        start = end
    return spans


def _block(name: str) -> str:
    """The block that a site or linear belongs to; one outside of every numbered block is its own."""
    match = BLOCK.match(name)
    return match.group(1) if match else name


def _cut(nodes: list[fx.Node], index: dict[fx.Node, int], last: int) -> fx.Node | None:
    """The first node after the ``last`` linear that is all that nodes behind it read of the linears so far."""
    followed: set[fx.Node] = set()  # what depends on a linear
    for i, node in enumerate(nodes):
        if node.target == LINEAR or not followed.isdisjoint(node.all_input_nodes):
            followed.add(node)
            live = {n for n in followed if any(index[user] > i for user in n.users)}
            if i > last and live == {node}:
                return node
    return None


def _needed(end: fx.Node, start: fx.Node | None, index: dict[fx.Node, int]) -> tuple[fx.Node, ...]:
    """What ``end`` is computed from, itself included, back to ``start``, in graph order."""
    seen: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node not in seen and node is not start:
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return tuple(sorted(seen, key=index.__getitem__))
