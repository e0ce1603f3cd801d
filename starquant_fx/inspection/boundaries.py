"""The cut between regions of high and of low precision: where floats become codes and codes floats again."""

from __future__ import annotations

import dataclasses
from collections import Counter

from starquant_fx.errors import InputError, nearest
from starquant_fx.inspection.kinds import makes_codes, site_of
from starquant_fx.inspection.recording import Node, Recording, Stage
from starquant_fx.inspection.sizes import CODES, element, is_float, symbols, value_bytes

INTO, BACK, WEIGHTS = "floats -> codes", "codes -> floats", "weights -> floats"
"""Directions of a crossing; that of weights is where stored codes of weights meet activations."""
GROUPS = ("role", "site")


@dataclasses.dataclass(frozen=True)
class Edge:
    """An edge over the cut.

    Attributes:
        direction: ``INTO``, ``BACK`` or ``WEIGHTS``.
        source: Name of the node, or of the constant, whose value crosses.
        target: Name of the node behind the cut.
        bytes: Of the value as stored; of codes with their scales and zero points.
    """

    direction: str
    source: str
    target: str
    bytes: float


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Edges of one group in one direction.

    Attributes:
        group: Roles or name of the site, as asked for.
        direction: As in ``Edge``.
        bits: Of the codes, such as ``a4``.
        edges: In the graph's order.
        operators: That stand at the cut, and how many of each.
        bytes: That cross.
    """

    group: str
    direction: str
    bits: str
    edges: tuple[Edge, ...]
    operators: tuple[tuple[str, int], ...]
    bytes: float


def boundaries(
    recording: Recording, stage: Stage | None = None, group: str = "role"
) -> tuple[Crossing, ...]:
    """The edges at which floats become codes and codes become floats.

    A node that restores and multiplies in one, such as ``quantized_linear``, is the end of the codes: its codes cross
    into it. A kernel that quantizes and multiplies in one has no codes outside and shows its weights only.

    Args:
        recording: The recording.
        stage: The stage; None = the last.
        group: ``role`` or ``site``.

    Returns:
        Crossings in the graph's order.

    Raises:
        InputError: It cannot be grouped so.
    """
    if group not in GROUPS:
        raise InputError(
            f"edges cannot be grouped by {group!r}",
            where="boundaries",
            expected=" or ".join(GROUPS),
            got=repr(group),
            hint=nearest(group, GROUPS) or "role puts alike sites of all layers together",
        )
    stage = stage or recording.last
    values = symbols(recording.tokens)
    found: dict[tuple[str, str, str], list[tuple[Edge, str]]] = {}
    for node in stage.nodes.values():
        for edge, bits in _edges(node, stage, values):
            key = (_group(node, recording, group), edge.direction, bits)
            found.setdefault(key, []).append((edge, node.operator))
    order = {name: i for i, name in enumerate(dict.fromkeys(key[0] for key in found))}
    return tuple(
        Crossing(
            group=name,
            direction=direction,
            bits=bits,
            edges=tuple(edge for edge, _ in edges),
            operators=tuple(Counter(dict(_targets(edges)).values()).most_common()),
            bytes=sum(edge.bytes for edge, _ in edges),
        )
        for (name, direction, bits), edges in sorted(
            found.items(),
            key=lambda one: (order[one[0][0]], (INTO, WEIGHTS, BACK).index(one[0][1])),
        )
    )


def _targets(edges: list[tuple[Edge, str]]) -> list[tuple[str, str]]:
    return [(edge.target, operator) for edge, operator in edges]


def _edges(node: Node, stage: Stage, values: dict[str, int]) -> list[tuple[Edge, str]]:
    """Edges over the cut that end at a node, with the bits of their codes."""
    found = []
    activation = "w" if "quantize_weight" in node.operator or node.bits.startswith("w") else "a"
    if makes_codes(node):
        # a state or an index is an integer, and what is made of it are no codes
        main = [s for s in node.sources if is_float(_kind(stage, s.node, s.output))][:1]
        for source in main:
            size = value_bytes(_kind(stage, source.node, source.output), values)
            found.append((Edge(INTO, source.node, node.name, size), _part(node.bits, activation)))
        return found
    if not any(map(is_float, node.outputs)):
        return found
    weights = "dequantize_weight" in node.operator
    for maker in dict.fromkeys(s.node for s in node.sources if _carries_codes(stage, s.node)):
        outputs = {s.output for s in node.sources if s.node == maker}
        size = sum(value_bytes(_kind(stage, maker, output), values) for output in outputs)
        direction, bits = (WEIGHTS, node.bits) if weights else (BACK, stage.nodes[maker].bits)
        found.append(
            (Edge(direction, maker, node.name, size), _part(bits, "w" if weights else "a"))
        )
    if node.bits.startswith("w"):
        for _, name, kind in node.tensors:
            if element(kind) in CODES:
                size = value_bytes(kind, values)
                found.append((Edge(WEIGHTS, name, node.name, size), _part(node.bits, "w")))
    return found


def _carries_codes(stage: Stage, name: str) -> bool:
    node = stage.nodes.get(name)
    return node is not None and makes_codes(node)


def _kind(stage: Stage, name: str, output: int) -> str:
    node = stage.nodes.get(name)
    return node.outputs[output] if node is not None and output < len(node.outputs) else ""


def _part(bits: str, letter: str) -> str:
    """``w4`` or ``a4`` of ``w4a4``; all of it where there is no such part."""
    start = bits.find(letter)
    if start < 0:
        return bits
    end = start + 1
    while end < len(bits) and bits[end].isdecimal():
        end += 1
    return bits[start:end]


def _group(node: Node, recording: Recording, group: str) -> str:
    site = site_of(node, recording)
    if site is None:
        return node.role or node.module or "no site"
    return site.name if group == "site" else "+".join(site.roles)
