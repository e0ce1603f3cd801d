"""A recording in few JSON values: strings once, nodes once, stages as numbers of nodes; ``viewer/data.js`` reads it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

from starquant_fx.inspection import difference
from starquant_fx.inspection.recording import Node, Recording, Source, Stage

FIELDS = tuple(field.name for field in dataclasses.fields(Node))
"""Of a node, in the order of its values."""


def pack(recording: Recording) -> dict[str, Any]:
    """A recording as JSON-ready values.

    Args:
        recording: The recording.

    Returns:
        ``strings``; ``nodes``, each a list of its ``fields`` in which numbers stand for strings; ``compared``, those
        fields in which a changed node differs; ``stages``, each with the
        differences between the numbers of its nodes, which are mostly 1 and compress well; and ``sites``.
    """
    packer = _Packer()
    stages = [packer.stage(stage) for stage in recording.stages]
    return {
        "package": recording.package,
        "model": recording.model,
        "recipe": recording.recipe,
        "tokens": recording.tokens,
        "fields": FIELDS,
        "compared": difference.FIELDS,
        "strings": list(packer.strings),
        "nodes": packer.nodes,
        "stages": stages,
        "sites": [_plain(dataclasses.asdict(site)) for site in recording.sites.values()],
    }


class _Packer:
    """Numbers strings and nodes. The stages of a recording share the nodes that did not change."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {}
        self.nodes: list[list[Any]] = []
        self._equal: dict[Node, int] = {}
        self._same: dict[int, int] = {}

    def stage(self, stage: Stage) -> dict[str, Any]:
        numbers = [self._node(node) for node in stage.nodes.values()]
        return {
            "name": stage.name,
            "text": stage.text,
            "preserves": stage.preserves,
            "seconds": number(stage.seconds),
            "notes": stage.notes,
            "steps": [b - a for a, b in itertools.pairwise([0, *numbers])],
        }

    def _node(self, node: Node) -> int:
        # first by identity, which is fast: most nodes of a stage are the objects of the stage before
        index = self._same.get(id(node))
        if index is None:
            index = self._same[id(node)] = self._equal.setdefault(node, len(self.nodes))
            if index == len(self.nodes):
                self.nodes.append([self._value(getattr(node, name)) for name in FIELDS])
        return index

    def _value(self, value: Any) -> Any:
        """Strings as numbers, numbers as they are, and tuples of tuples flat."""
        if isinstance(value, str):
            return self.strings.setdefault(value, len(self.strings))
        if isinstance(value, tuple):
            return [one for part in value for one in self._parts(part)]
        return number(value)

    def _parts(self, part: Any) -> list[Any]:
        if isinstance(part, Source):
            return [self._value(part.node), part.output, self._value(part.argument)]
        return (
            [self._value(one) for one in part] if isinstance(part, tuple) else [self._value(part)]
        )


def number(value: float | None) -> float | str | None:
    """A number as JSON can say it: whole ones without a point, and as text what is not finite.

    ``checking.error`` and ``viewer/data.js`` read it.
    """
    if value is None or isinstance(value, int):
        return value
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return int(value) if value.is_integer() else value


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: number(v) if isinstance(v, float) else v for k, v in values.items()}
