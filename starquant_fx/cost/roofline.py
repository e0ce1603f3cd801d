"""Time and memory of a graph on a chip: predictions, by a roofline for every kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from starquant_fx.cost.chips import Chip
from starquant_fx.cost.graph import GraphCost, NodeCost, moved
from starquant_fx.cost.shapes import Shape, at
from starquant_fx.cost.work import Scratch


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a forward takes.

    Attributes:
        seconds: All of it.
        compute: Of kernels that compute longer than they read and write.
        memory: Of kernels that read and write longer.
        launch: Of launches.
        launches: How many there are.
        by_kernel: Seconds of every kernel, launch included, by its number.
    """

    seconds: float
    compute: float
    memory: float
    launch: float
    launches: int
    by_kernel: Mapping[int, float]


def predict(cost: GraphCost, chip: Chip, shape: Shape, *, compiled: bool) -> Prediction:
    """Predicts a forward: the sum over kernels of the longer of computing and moving, and launches.

    Args:
        cost: Of the graph.
        chip: The chip.
        shape: The tokens.
        compiled: Elementwise neighbours are one kernel, and launches are captured in a graph where the chip can do so;
            otherwise every call is a kernel and is launched.

    Returns:
        The prediction.
    """
    kernels: dict[int, list[NodeCost]] = {}
    for index, node in enumerate(cost.nodes):
        kernels.setdefault(node.kernel if compiled else index, []).append(node)
    compute = memory = launch = 0.0
    launches = 0
    seconds: dict[int, float] = {}
    for number, nodes in kernels.items():
        computing = sum(
            at(count, shape) / chip.rates[unit].value
            for node in nodes
            for unit, count in node.operations.items()
        )
        left = [_left(node.scratch, chip, shape) for node in nodes if node.scratch is not None]
        moving = sum(at(moved(node, compiled), shape) for node in nodes)
        moving = (moving + sum(size for size, _ in left)) / chip.bandwidth.value
        count = 1 + sum(node.launches - 1 for node in nodes) + sum(more for _, more in left)
        own = any(node.operator.startswith("starquant.") for node in nodes)
        launching = (chip.own_launch if own else chip.launch).value
        launching *= count * (not (compiled and chip.captures))
        launches += count
        compute += computing if computing >= moving else 0.0
        memory += moving if moving > computing else 0.0
        launch += launching
        seconds[number] = max(computing, moving) + launching
    return Prediction(compute + memory + launch, compute, memory, launch, launches, seconds)


def _left(scratch: Scratch, chip: Chip, shape: Shape) -> tuple[float, int]:
    """Bytes that a call's kernels write and read between them, and the launches that come with them."""
    return scratch.of(chip.architecture, int(at(scratch.tokens, shape)))


def peak_activations(cost: GraphCost, shape: Shape, *, compiled: bool) -> float:
    """Most bytes that inputs, activations and logits take at once, in the graph's order.

    Args:
        cost: Of the graph.
        shape: The tokens.
        compiled: As in ``predict``; what stays inside of a fused kernel takes no memory then.

    Returns:
        Bytes; allocation in blocks and workspaces are not in them.
    """
    changes: dict[int, float] = {}
    for value in cost.values:
        if compiled and value.fused_away:
            continue
        size = at(value.size, shape)
        changes[value.made] = changes.get(value.made, 0.0) + size
        changes[value.read + 1] = changes.get(value.read + 1, 0.0) - size
    held = most = 0.0
    for moment in sorted(changes):
        held += changes[moment]
        most = max(most, held)
    return most


@dataclasses.dataclass(frozen=True)
class Row:
    """Sums of the nodes of one group: a role, a site, a pass, an operator, or one node.

    Attributes:
        name: The group.
        nodes: How many.
        operations: By unit.
        weights: Bytes of constants read.
        activations: Bytes of activations read and written.
        seconds: Predicted; a fused kernel counts where its first node does.
    """

    name: str
    nodes: int
    operations: Mapping[str, float]
    weights: float
    activations: float
    seconds: float


GROUPS: dict[str, Callable[[NodeCost], str]] = {
    "node": lambda node: node.name,
    "role": lambda node: node.place.role,
    "site": lambda node: node.place.site or node.place.role,
    "pass": lambda node: node.place.by,
    "operator": lambda node: node.operator,
}
"""What nodes can be summed by."""


def rows_by(cost: GraphCost, chip: Chip, shape: Shape, group: str, *, compiled: bool) -> list[Row]:
    """Sums by group, the longest first (nodes in their order).

    Args:
        cost: Of the graph.
        chip: The chip.
        shape: The tokens.
        group: A key of ``GROUPS``.
        compiled: As in ``predict``.

    Returns:
        A row a group.
    """
    seconds = predict(cost, chip, shape, compiled=compiled).by_kernel
    members: dict[str, list[tuple[int, NodeCost]]] = {}
    for index, node in enumerate(cost.nodes):
        members.setdefault(GROUPS[group](node), []).append((index, node))
    seen: set[int] = set()
    rows = []
    for name, nodes in members.items():
        operations: dict[str, float] = {}
        weights = activations = spent = 0.0
        for index, node in nodes:
            for unit, count in node.operations.items():
                operations[unit] = operations.get(unit, 0.0) + at(count, shape)
            constant = at(node.fused_weights if compiled else node.weights, shape)
            weights += constant
            activations += at(moved(node, compiled), shape) - constant
            kernel = node.kernel if compiled else index
            if kernel not in seen:
                seen.add(kernel)
                spent += seconds[kernel]
        rows.append(Row(name, len(nodes), operations, weights, activations, spent))
    return rows if group == "node" else sorted(rows, key=lambda row: -row.seconds)
