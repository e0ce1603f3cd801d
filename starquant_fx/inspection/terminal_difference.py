"""The difference of two stages on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from starquant_fx.inspection import wording
from starquant_fx.inspection.difference import Difference
from starquant_fx.inspection.recording import Node
from starquant_fx.inspection.tables import Cell, Column, FittedTable

SIGNS = {"+": wording.ADDED, "-": wording.REMOVED, "~": wording.CHANGED}
Entry = tuple[str, Node, str]
"""Sign, node, and what happened to it."""


def difference(found: Difference, *, all: bool = False) -> RenderableType:
    """What differs.

    Args:
        found: The difference.
        all: A line a node; otherwise alike changes of all layers are one line, told by the first.

    Returns:
        What rich prints.
    """
    counts = found.counts
    title = Text.assemble(
        (
            f"{wording.plain(found.before.name)} -> {wording.plain(found.after.name)}: ",
            wording.NAME,
        ),
        (f"{counts['added']:,} added", wording.ADDED),
        ", ",
        (f"{counts['removed']:,} removed", wording.REMOVED),
        ", ",
        (f"{counts['changed']:,} changed", wording.CHANGED),
        f", {counts['unchanged']:,} unchanged",
    )
    entries = list(_entries(found))
    if not entries:
        return Group(title)
    columns = [
        Column("", least=1),
        Column("nodes") if not all else Column("node", least=18),
        Column("operator", least=19),
        Column("where", rank=1, least=10),
        Column("bits", rank=2, least=5),
        Column("what" if all else "what, by the first", least=30),
    ]
    members: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        members.setdefault(_alike(entry) if not all else (entry[1].name,), []).append(entry)
    rows = [_row(same, all) for same in members.values()]
    return FittedTable(columns, rows, title)


def _row(same: list[Entry], all: bool) -> list[Cell]:
    sign, node, what = same[0]
    return [
        Text(sign, SIGNS[sign]),
        Text(wording.plain(node.name), wording.NAME) if all else f"{len(same):,}",
        Text(wording.plain(wording.operator(node)), SIGNS[sign]),
        _place(node),
        wording.bits(node.bits) if node.bits else wording.NOTHING,
        what,
    ]


def _entries(found: Difference) -> Iterator[Entry]:
    for node in found.added:
        origin = f" from {', '.join(node.made_from)}" if node.made_from else ""
        yield "+", node, f"by {node.made_by}{origin}"
    for change in found.changed:
        yield "~", change.after, "\n".join(map(str, change.fields))
    heirs: dict[str, list[str]] = {}
    for node in found.added:
        for origin in node.made_from:
            heirs.setdefault(origin, []).append(node.name)
    for node in found.removed:
        gone = heirs.get(node.name)
        yield "-", node, f"now {', '.join(gone)}" if gone else ""


def _alike(entry: Entry) -> tuple[object, ...]:
    """What changes of several layers have in common: all but names."""
    sign, node, what = entry
    fields = tuple(line.partition(":")[0] for line in what.split("\n")) if sign == "~" else ()
    return sign, node.operator, node.part, _place(node), node.bits, fields


def _place(node: Node) -> str:
    """Where a node stands, with a star for a layer's number."""
    parts = node.module.split(".")
    # the last two say what it is; what all layers share before them does not
    return ".".join(re.sub(r"^\d+$", "*", part) for part in parts[-2:]) or wording.NOTHING
