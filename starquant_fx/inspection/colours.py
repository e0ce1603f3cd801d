"""Colours of bits in figures: the fewer, the warmer."""

from __future__ import annotations

from starquant_fx.inspection.recording import Node
from starquant_fx.inspection.wording import fewest_bits

NONE, FLOAT, EIGHT, FOUR, LOW = "#ffffff", "#d6e6f5", "#d9efcf", "#ffe0a3", "#f8b4a6"
LEGEND = (
    ("floats", FLOAT),
    ("5 to 8 bits", EIGHT),
    ("4 bits", FOUR),
    ("below 4 bits", LOW),
    ("moves values only", NONE),
)
EDGE, CLUSTER, WORDS, OUTSIDE = "#666666", "#9aa5b1", "#1f2933", "#f4f5f7"


def colour(node: Node) -> str:
    """The colour of a node."""
    fewest = fewest_bits(node.bits)
    if fewest is None:
        return FLOAT if node.flops else NONE
    return EIGHT if fewest > 4 else FOUR if fewest == 4 else LOW
