"""Measures of nodes as overlays of Model Explorer: its node data, by graph and node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from starquant_fx.inspection.collection import graph_id
from starquant_fx.inspection.kinds import is_linear, site_of
from starquant_fx.inspection.recording import Node, Recording
from starquant_fx.inspection.sizes import BITS, element, is_float
from starquant_fx.inspection.wording import fewest_bits

Measure = Callable[[Node, Recording], float | None]
LITTLE, SOME, MUCH = "#fff7e6", "#f7b267", "#c8402f"
FEW, MANY = "#f08a78", "#cfe2f3"


def _error(node: Node, recording: Recording) -> float | None:
    """The error of a site stands on its products, which make its outputs; where nothing is quantized there is none."""
    site = site_of(node, recording) if is_linear(node) and node.bits else None
    return None if site is None else site.error


def _bits(node: Node, _: Recording) -> float | None:
    """The fewest bits, or those of the type that is computed in."""
    fewest = fewest_bits(node.bits)
    if fewest is not None:
        return fewest
    floats = [kind for kind in node.outputs if is_float(kind)]
    return BITS[element(floats[0])] if floats and node.flops else None


MEASURES: dict[str, tuple[Measure, tuple[str, ...]]] = {
    "error": (_error, (LITTLE, SOME, MUCH)),
    "bytes": (lambda node, _: node.bytes, (LITTLE, SOME, MUCH)),
    "flops": (lambda node, _: node.flops, (LITTLE, SOME, MUCH)),
    "bits": (_bits, (FEW, MANY)),
}
"""By name: what is measured, and colours from the least to the most."""


def overlays(recording: Recording) -> dict[str, dict[str, Any]]:
    """Node data of every measure, for each of which Model Explorer takes a file.

    Args:
        recording: The recording; ids are those of ``collection.to_collection``.

    Returns:
        By measure, JSON-ready: for every graph a name, a value a node, and the gradient from the least value to the
        most. A measure that no node has is left out, such as errors that were not measured.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (measure, gradient) in MEASURES.items():
        graphs = {
            graph_id(i, stage): _graph(name, _values(stage.nodes, measure, recording), gradient)
            for i, stage in enumerate(recording.stages)
        }
        if any(graph["results"] for graph in graphs.values()):
            found[name] = graphs
    return found


def _values(nodes: Mapping[str, Node], measure: Measure, recording: Recording) -> dict[str, float]:
    known = {name: measure(node, recording) for name, node in nodes.items()}
    # what is not finite is no JSON, and zeros would only flatten the gradient
    return {n: value for n, value in known.items() if value and math.isfinite(value)}


def _graph(name: str, values: Mapping[str, float], gradient: tuple[str, ...]) -> dict[str, Any]:
    last = len(gradient) - 1
    return {
        "name": name,
        "results": {node: {"value": value} for node, value in values.items()},
        "gradient": [{"stop": i / last, "bgColor": c} for i, c in enumerate(gradient)],
    }
