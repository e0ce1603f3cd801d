"""A stage's graph made small enough to be drawn: modules below a depth, and what only moves values, become one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

import networkx as nx

from starquant_fx.errors import InputError, nearest
from starquant_fx.inspection.kinds import Kind, graph, kinds
from starquant_fx.inspection.recording import Node, Stage
from starquant_fx.inspection.wording import fewest_bits, listed, operator

Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Box:
    """What is drawn as one.

    Attributes:
        title: Its operator, or its module.
        module: Path of the module that it is drawn in.
        nodes: That it stands for.
        outside: Whether it only feeds the part that is drawn.
        by_state: Whether it reads the token state, which is not drawn.
    """

    title: str
    module: str
    nodes: tuple[Node, ...]
    outside: bool = False
    by_state: bool = False

    @property
    def chief(self) -> Node:
        """The node that says most: of the fewest bits, then of the most operations."""
        return min(self.nodes, key=lambda n: (fewest_bits(n.bits) or 99, -(n.flops or 0.0)))


def part_of(stage: Stage, part: str) -> set[str]:
    """Names of the nodes in a module and below it.

    Args:
        stage: The stage.
        part: Path of the module; empty = all.

    Returns:
        The names.

    Raises:
        InputError: There is no such module; the nearest is offered.
    """
    if not part:
        return set(stage.nodes)
    found = {n.name for n in stage.nodes.values() if f"{n.module}.".startswith(f"{part}.")}
    if not found:
        known = dict.fromkeys(above for n in stage.nodes.values() for above in _above(n.module))
        raise InputError(
            f"no node stands in the module {part!r}",
            where=f"stage {stage.name}",
            expected="the path of a module",
            got=repr(part),
            hint=nearest(part, known) or f"for example {next(iter(known), '')!r}",
        )
    return found


def by_module(stage: Stage, names: Iterable[str], depth: int | None) -> nx.DiGraph:
    """The graph of some nodes in which a module of a depth or deeper is one box.

    Args:
        stage: The stage.
        names: Of the nodes.
        depth: Parts of a path that are drawn; None = all, a box a node.

    Returns:
        A graph of which each node has a ``box``.
    """
    known = kinds(stage)

    def key(node: Node) -> Key:
        parts = node.module.split(".") if node.module else []
        if depth is not None and not parts and known[node.name] is Kind.ROTARY:
            return ("rotary", "positions")
        if depth is None or len(parts) < depth or not parts:
            return ("node", node.name)
        return ("module", ".".join(parts[:depth]))

    return _contracted(stage, set(names), key)


def pattern(stage: Stage, names: Iterable[str]) -> nx.DiGraph:
    """The graph of some nodes as a figure in a paper shows it.

    Norms and rotary embeddings are one box each, what only moves values is left out, what feeds the part from outside
    is drawn without what is before it, and who reads the token state is marked instead of connected.

    Args:
        stage: The stage.
        names: Of the nodes.

    Returns:
        A graph of which each node has a ``box``.
    """
    known, kept = kinds(stage), set(names)
    whole = graph(stage)
    rotary = {n for n in kept if known[n] is Kind.ROTARY}
    joined = {
        name: f"rotary {index}"
        for index, group in enumerate(nx.weakly_connected_components(whole.subgraph(rotary)))
        for name in group
    }

    def key(node: Node) -> Key:
        if node.name in joined:
            return ("rotary", joined[node.name])
        if known[node.name] is Kind.NORM:
            return ("norm", node.module)
        return ("node", node.name)

    made = _contracted(stage, kept, key)
    for name in list(made):
        box = made.nodes[name]["box"]
        if box.outside and known[box.nodes[0].name] is Kind.STATE:
            for reader in made.succ[name]:
                marked = dataclasses.replace(made.nodes[reader]["box"], by_state=True)
                made.nodes[reader]["box"] = marked
            made.remove_node(name)
            continue
        moves = all(known[n.name] is Kind.LAYOUT for n in box.nodes)
        if moves and made.pred[name] and made.succ[name]:
            made.add_edges_from((a, b) for a in made.pred[name] for b in made.succ[name])
            made.remove_node(name)
    return made


def _contracted(stage: Stage, kept: set[str], key: Callable[[Node], Key]) -> nx.DiGraph:
    members: dict[Key, list[Node]] = {}
    keys = {name: key(stage.nodes[name]) for name in stage.nodes if name in kept}
    for name, one in keys.items():
        members.setdefault(one, []).append(stage.nodes[name])
    made = nx.DiGraph()
    for one, nodes in members.items():
        made.add_node(one, box=_box(one, nodes))
    for name, one in keys.items():
        for source in stage.nodes[name].sources:
            before = keys.get(source.node)
            if before is None:
                before = ("outside", source.node)
                node = stage.nodes[source.node]
                made.add_node(before, box=Box(operator(node), "", (node,), outside=True))
            if before != one:
                made.add_edge(before, one)
    return made


def _box(key: Key, nodes: list[Node]) -> Box:
    kind, name = key
    first = nodes[0]
    if kind == "node":
        return Box(operator(first), first.module, (first,))
    if kind == "module":
        counts = Counter(operator(n) for n in nodes if n.flops or n.bytes)
        few = [f"{len(nodes)} nodes"] if len(counts) > 4 else [listed(counts.items())]
        return Box(
            "\n".join((name.rpartition(".")[2], *few)), name.rpartition(".")[0], tuple(nodes)
        )
    return Box(kind, first.module if kind == "norm" else _shared(nodes), tuple(nodes))


def _shared(nodes: list[Node]) -> str:
    paths = [n.module.split(".") for n in nodes]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _above(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
