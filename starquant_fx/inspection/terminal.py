"""A recording on the terminal. Every function returns what rich prints, at the width of its console."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from starquant_fx.errors import InputError, nearest
from starquant_fx.inspection import wording
from starquant_fx.inspection.difference import difference as compare
from starquant_fx.inspection.recording import Recording, SiteFacts, Stage
from starquant_fx.inspection.tables import Cell, Column, FittedTable
from starquant_fx.inspection.terminal_analyses import (
    boundaries,
    critical_path,
    high_precision,
    precision_path,
)
from starquant_fx.inspection.terminal_difference import difference
from starquant_fx.inspection.terminal_site import site
from starquant_fx.inspection.terminal_tree import tree

__all__ = [
    "SORTS",
    "boundaries",
    "critical_path",
    "difference",
    "high_precision",
    "precision_path",
    "site",
    "sites",
    "stage",
    "timeline",
    "tree",
]

KEEPS = {"bitwise": "green", "numerically": "yellow", "not": "red"}
"""Styles of how far a pass keeps the function."""


def _descending(value: float | None) -> float:
    """The largest first, before them what is no number, and what was not measured last."""
    if value is None:
        return math.inf
    return -math.inf if math.isnan(value) else -value


SORTS: dict[str, Callable[[SiteFacts], Any]] = {
    "name": lambda one: wording.natural(one.name),
    "error": lambda one: _descending(one.error),
    "sqnr": lambda one: _descending(one.error),
    "bytes": lambda one: -one.bytes_after,
    "flops": lambda one: -one.flops,
    "bits": lambda one: wording.fewest_bits(one.bits) or 99,
}
"""What sites can be sorted by: the worst, the largest or the fewest bits first."""


def timeline(recording: Recording) -> RenderableType:
    """The passes: how long each took, and what it did to the graph.

    Args:
        recording: The recording.

    Returns:
        What rich prints.
    """
    columns = [
        Column("pass", least=18),
        Column("options", rank=2, least=12),
        Column("keeps", least=11),
        Column("time"),
        Column("nodes"),
        Column("added"),
        Column("removed"),
        Column("changed"),
    ]
    rows: list[list[Cell]] = []
    before: Stage | None = None
    notes = []
    for one in recording.stages:
        options = one.text.partition("{")[2].rstrip("}")
        found = None if before is None else compare(before, one).counts
        rows.append(
            [
                Text(wording.plain(one.name), wording.NAME),
                options or wording.NOTHING,
                Text(one.preserves or wording.NOTHING, KEEPS.get(one.preserves, "")),
                wording.time(one.seconds) if one.seconds else wording.NOTHING,
                f"{len(one.nodes):,}",
                *_counts(found),
            ]
        )
        notes += [f"{one.name}: {note}" for note in one.notes]
        before = one
    total = sum(one.seconds for one in recording.stages)
    title = f"{_title(recording)}: {wording.plural(len(recording.stages), 'stage')}, {wording.time(total)}"
    return FittedTable(columns, rows, Text(wording.plain(title), wording.NAME), notes)


def sites(recording: Recording, sort: str = "") -> RenderableType:
    """All sites.

    Args:
        recording: The recording.
        sort: A key of ``SORTS``; empty = the graph's order.

    Returns:
        What rich prints.

    Raises:
        InputError: There is no such key; the nearest is offered.
    """
    if sort and sort not in SORTS:
        raise InputError(
            f"sites cannot be sorted by {sort!r}",
            where="--sort",
            expected=", ".join(SORTS),
            got=repr(sort),
            hint=nearest(sort, SORTS) or "leave it out for the graph's order",
        )
    found = list(recording.sites.values())
    shared = wording.shared_prefix([one.name for one in found])
    if sort:
        found.sort(key=SORTS[sort])
    columns = [
        Column("site", least=28),
        Column("roles", rank=1, least=7),
        Column("bits", least=5),
        Column("error"),
        Column("SQNR dB"),
        Column("constants"),
        Column("as captured", rank=4),
        Column("flops", rank=2),
        Column("gates", rank=5),
        Column("leakage", rank=6),
        Column("transform", rank=3, least=16),
    ]
    rows: list[list[Cell]] = [
        [
            Text(wording.plain(wording.without(one.name, shared)), wording.NAME),
            " ".join(one.roles),
            wording.bits(one.bits),
            wording.error(one.error),
            wording.decibels(one.sqnr),
            wording.size(one.bytes_after),
            wording.size(one.bytes_before),
            wording.amount(one.flops),
            str(one.gates or wording.NOTHING),
            wording.error(one.leakage if one.gates else None),
            one.transform or wording.NOTHING,
        ]
        for one in found
    ]
    title = f"{_title(recording)}: {wording.plural(len(found), 'site')}"
    title += f" of {shared}" if shared else ""
    title += f", by {sort}" if sort else ""
    return FittedTable(columns, rows, Text(wording.plain(title), wording.NAME), _sums(found))


def stage(
    recording: Recording, name: str, *, all: bool = False, nodes: bool = False
) -> RenderableType:
    """One stage: its pass, what it changed, and its tree.

    Args:
        recording: The recording.
        name: Of the stage.
        all: Every layer, also where several are alike.
        nodes: Every node.

    Returns:
        What rich prints.

    Raises:
        InputError: There is no such stage.
    """
    one = recording.stage(name)
    index = recording.stages.index(one)
    head = Text.assemble((wording.plain(one.text), wording.NAME), f"  {_title(recording)}")
    facts = [f"stage {index + 1} of {len(recording.stages)}"]
    if one.seconds:
        facts.append(wording.time(one.seconds))
    flops = sum(node.flops or 0.0 for node in one.nodes.values())
    moved = sum(node.bytes or 0.0 for node in one.nodes.values())
    facts += [wording.plural(len(one.nodes), "node"), f"{wording.amount(flops)} flops"]
    facts.append(f"{wording.size(moved)} read and written a forward")
    lines = [head, Text(", ".join(facts))]
    if one.preserves:
        keeps = Text("keeps the function: ")
        lines.append(keeps.append(one.preserves, KEEPS.get(one.preserves, "")))
    if index:
        before = recording.stages[index - 1]
        counts = compare(before, one).counts
        text = Text(f"since {wording.plain(before.name)}: ")
        text.append(f"+{counts['added']} nodes", wording.ADDED).append(", ")
        text.append(f"-{counts['removed']}", wording.REMOVED).append(", ")
        lines.append(text.append(f"{counts['changed']} changed", wording.CHANGED))
    lines += [Text(wording.plain(note)) for note in one.notes]
    return Group(*lines, tree(one, all=all, nodes=nodes, title=False))


def _counts(found: dict[str, int] | None) -> list[Cell]:
    styles = {"added": wording.ADDED, "removed": wording.REMOVED, "changed": wording.CHANGED}
    if found is None:
        return [wording.NOTHING] * len(styles)
    return [
        Text(f"{found[key]:,}", style) if found[key] else Text("0", wording.QUIET)
        for key, style in styles.items()
    ]


def _sums(found: list[SiteFacts]) -> list[str]:
    before = sum(one.bytes_before for one in found)
    after = sum(one.bytes_after for one in found)
    reasons = Counter(one.reason for one in found if one.reason)
    notes = [f"{wording.plural(n, 'site')} in floats: {reason}" for reason, n in reasons.items()]
    notes += [f"constants of these sites: {wording.size(before)} -> {wording.size(after)}"]
    if any(one.error is not None for one in found):
        notes.append("error: ||y - y'||² / ||y||² of a site's outputs given full-precision inputs")
    elif any(one.bits for one in found):
        notes.append("errors were not measured: record with weights and calibration data")
    return notes


def _title(recording: Recording) -> str:
    return f"{wording.plain(recording.model)}, {wording.plain(recording.recipe)}"
