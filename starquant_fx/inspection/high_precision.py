"""What of a stage still computes in floats, and why."""

from __future__ import annotations

import dataclasses
from collections import Counter

from starquant_fx.inspection.kinds import Kind, is_linear, kinds, makes_codes, site_of
from starquant_fx.inspection.recording import Node, Recording, Stage

REASONS = {
    Kind.ATTENTION: "recipes quantize linears; attention between tokens stays in floats",
    Kind.BASIS: "prepares a site's input or corrects its output",
    Kind.BRANCH: "the part of a site that stays in floats so that the rest quantizes well",
    Kind.CODES: "rotates in floats before it rounds",
    Kind.NORM: "a norm; its scale may be folded into linears",
    Kind.ROTARY: "positions of queries and keys",
    Kind.EMBEDDING: "a table that is read, not multiplied",
    Kind.STATE: "token state and the order of tokens by it",
    Kind.ELEMENTWISE: "activation functions, products and sums between linears",
    Kind.LAYOUT: "moves or converts values",
}
"""Of what belongs to no linear."""
NOT_YET = "quantized by a later pass"


@dataclasses.dataclass(frozen=True)
class FloatGroup:
    """Nodes that compute in floats for one reason.

    Attributes:
        kind: What they are for.
        what: Their role or, where they have none, their kind.
        reason: Why they compute in floats.
        operators: Operators and how many nodes of each, the most frequent first.
        sites: Names of the sites that are in full precision; empty for other nodes.
        flops: Of a forward.
        bytes: That a forward reads and writes there.
        flops_share: Of all nodes of the stage.
        bytes_share: Likewise.
    """

    kind: Kind
    what: str
    reason: str
    operators: tuple[tuple[str, int], ...]
    sites: tuple[str, ...]
    flops: float
    bytes: float
    flops_share: float
    bytes_share: float

    @property
    def nodes(self) -> int:
        """How many."""
        return sum(count for _, count in self.operators)


@dataclasses.dataclass(frozen=True)
class HighPrecision:
    """What computes in floats.

    Attributes:
        stage: Name of the stage.
        groups: The largest flops first, then bytes.
        flops: Of all nodes of the stage.
        bytes: Likewise.
    """

    stage: str
    groups: tuple[FloatGroup, ...]
    flops: float
    bytes: float


def high_precision(recording: Recording, stage: Stage | None = None) -> HighPrecision:
    """Groups the nodes that compute in floats.

    Args:
        recording: The recording.
        stage: The stage; None = the last.

    Returns:
        The groups. A node that rotates and rounds in one counts whole, because a recording holds one count a node.
    """
    stage = stage or recording.last
    flops = sum(node.flops or 0.0 for node in stage.nodes.values())
    moved = sum(node.bytes or 0.0 for node in stage.nodes.values())
    members: dict[tuple[Kind, str, str], list[Node]] = {}
    for name, kind in kinds(stage).items():
        node = stage.nodes[name]
        if _in_floats(node, kind):
            members.setdefault((kind, *_why(node, kind, recording)), []).append(node)
    groups = [
        _group(kind, what, reason, nodes, recording, flops, moved)
        for (kind, what, reason), nodes in members.items()
    ]
    groups.sort(key=lambda group: (-group.flops, -group.bytes, group.what))
    return HighPrecision(stage.name, tuple(groups), flops, moved)


def _in_floats(node: Node, kind: Kind) -> bool:
    if kind is Kind.END or not (node.flops or node.bytes):
        return False
    if kind is Kind.CODES:
        return makes_codes(node) and "transform" in node.operator
    return not node.bits


def _why(node: Node, kind: Kind, recording: Recording) -> tuple[str, str]:
    if kind is not Kind.LINEAR:
        return kind.value, REASONS[kind]
    site = site_of(node, recording)
    if site is None:
        return node.role or kind.value, "not taken for a site: no pass saw it as a linear"
    role = node.role or dict(zip(site.linears, site.roles, strict=False)).get(node.linear, "")
    return role or kind.value, site.reason or NOT_YET


def _group(
    kind: Kind,
    what: str,
    reason: str,
    nodes: list[Node],
    recording: Recording,
    all_flops: float,
    all_bytes: float,
) -> FloatGroup:
    flops = sum(node.flops or 0.0 for node in nodes)
    moved = sum(node.bytes or 0.0 for node in nodes)
    sites = [site_of(node, recording) for node in nodes if is_linear(node)]
    return FloatGroup(
        kind=kind,
        what=what,
        reason=reason,
        operators=tuple(Counter(node.operator for node in nodes).most_common()),
        sites=tuple(dict.fromkeys(site.name for site in sites if site is not None)),
        flops=flops,
        bytes=moved,
        flops_share=flops / all_flops if all_flops else 0.0,
        bytes_share=moved / all_bytes if all_bytes else 0.0,
    )
