"""The longest path through a stage by predicted time. A prediction: nothing here was measured on the graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import networkx as nx

from starquant_fx.cost.chips import Chip, chip_named
from starquant_fx.cost.units import BF16, ELEMENTWISE, FP32, INT8
from starquant_fx.inspection.kinds import PRODUCTS, Kind, graph, kinds
from starquant_fx.inspection.recording import Node, Stage
from starquant_fx.inspection.sizes import element, is_float

DEFAULT_CHIP = "H200"
START = ("start",)
"""Before the nodes that read nothing; no node's name is a tuple."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A node of the path.

    Attributes:
        node: The node.
        kind: What it is for.
        seconds: Predicted, as a kernel of its own.
        bound: ``compute`` or ``memory``, whichever takes longer; empty where it takes no time.
    """

    node: Node
    kind: Kind
    seconds: float
    bound: str


@dataclasses.dataclass(frozen=True)
class CriticalPath:
    """The longest path.

    Attributes:
        stage: Name of the stage.
        chip: Name of the chip that it is predicted for.
        steps: From an input to the output.
        seconds: Of the path.
        total: Of all nodes, one after the other.
    """

    stage: str
    chip: str
    steps: tuple[Step, ...]
    seconds: float
    total: float

    @property
    def share(self) -> float:
        """Of the path in the time of all nodes."""
        return self.seconds / self.total if self.total else 0.0


def critical_path(stage: Stage, chip: Chip | str = DEFAULT_CHIP) -> CriticalPath:
    """The path whose nodes take longest, each ``max(flops / rate, bytes / bandwidth)`` and no launches.

    Args:
        stage: The stage.
        chip: A chip or its name.

    Returns:
        The path. The rate is that of the unit that does most of a node's work: a recording holds one count a node.

    Raises:
        InputError: There is no such chip.
    """
    chosen = chip_named(chip) if isinstance(chip, str) else chip
    costs = {name: _seconds(node, chosen) for name, node in stage.nodes.items()}
    whole = graph(stage)
    whole.add_edges_from((START, name) for name in stage.nodes if not whole.pred[name])
    for _, name, facts in whole.edges(data=True):
        facts["seconds"] = costs[name][0]
    path: list[Any] = nx.dag_longest_path(whole, weight="seconds") if stage.nodes else [START]
    known = kinds(stage)
    steps = tuple(Step(stage.nodes[name], known[name], *costs[name]) for name in path[1:])
    return CriticalPath(
        stage=stage.name,
        chip=chosen.name,
        steps=steps,
        seconds=sum(step.seconds for step in steps),
        total=sum(seconds for seconds, _ in costs.values()),
    )


def _seconds(node: Node, chip: Chip) -> tuple[float, str]:
    computing = (node.flops or 0.0) / chip.rates[_unit(node)].value
    moving = (node.bytes or 0.0) / chip.bandwidth.value
    if not (computing or moving):
        return 0.0, ""
    return max(computing, moving), "compute" if computing >= moving else "memory"


def _unit(node: Node) -> str:
    """The unit that does most of a node's work."""
    if not PRODUCTS.search(node.operator.rpartition(".")[2]):
        return ELEMENTWISE
    read = [kind for _, _, kind in node.tensors]
    if "quantized_linear" in node.operator or "tile_linear" in node.operator:
        # codes of activations are multiplied as integers; codes of weights alone are restored first
        return INT8 if "a" in node.bits else BF16
    if "panel_linear" in node.operator:
        return INT8
    floats = [kind for kind in (*node.outputs, *read) if is_float(kind)]
    return (
        FP32
        if floats and element(floats[0]) in ("f32", "f64") and "quantize" not in node.operator
        else BF16
    )
