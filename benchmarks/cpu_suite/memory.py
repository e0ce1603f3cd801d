"""How many processes fit beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cpu_suite.specs import ModelSpec
from cpu_suite.variants import Variant

MEMORY = Path("/proc/meminfo")
ASSUMED = 8_000_000_000
"""Bytes; where the system does not tell what is free."""
USABLE = 0.8
"""Share of the free memory that workers may fill by estimate."""
LIBRARIES = 500_000_000
"""Bytes that a process takes beside the model."""


def free_bytes() -> int:
    """Bytes of memory that new processes can have."""
    if MEMORY.exists():
        for line in MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return ASSUMED


def estimate(variant: Variant, spec: ModelSpec) -> float:
    """Bytes that a variant's process takes at most, roughly."""
    return LIBRARIES + variant.size * spec.float_bytes


def grouped(
    anchors: Sequence[Variant], others: Sequence[Variant], spec: ModelSpec, free: float
) -> list[list[Variant]]:
    """Splits variants, in their order, into groups that fit into memory beside the anchors; none is empty.

    Args:
        anchors: Variants that run beside every group.
        others: Variants to split.
        spec: The model.
        free: Bytes that are free before anything runs.
    """
    room = USABLE * free - sum(estimate(variant, spec) for variant in anchors)
    groups: list[list[Variant]] = []
    left = 0.0
    for variant in others:
        size = estimate(variant, spec)
        if not groups or size > left:
            groups.append([])
            left = room
        groups[-1].append(variant)
        left -= size
    return groups
