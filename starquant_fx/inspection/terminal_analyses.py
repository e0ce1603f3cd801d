"""The analyses of a stage on the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from starquant_fx.inspection import wording
from starquant_fx.inspection.boundaries import BACK, INTO, WEIGHTS, Crossing
from starquant_fx.inspection.critical_path import CriticalPath, Step
from starquant_fx.inspection.high_precision import HighPrecision
from starquant_fx.inspection.precision_path import CAVEAT, PrecisionPath
from starquant_fx.inspection.tables import Cell, Column, FittedTable

DIRECTIONS = {INTO: "yellow", WEIGHTS: "magenta", BACK: "cyan"}
BAR = 20
"""Cells of a full bar."""


def critical_path(found: CriticalPath, *, all: bool = False) -> RenderableType:
    """The longest path.

    Args:
        found: The path.
        all: Every node of it that takes time, in order; otherwise sums of what does the same.

    Returns:
        What rich prints.
    """
    title = Text.assemble(
        (f"critical path of {wording.plain(found.stage)}: ", wording.NAME),
        f"{wording.time(found.seconds)} of {wording.time(found.total)} ({wording.share(found.share)}), "
        f"{wording.plural(len(found.steps), 'node')}",
    )
    note = (
        f"A prediction for {found.chip}, not a measurement: max(flops / rate, bytes / bandwidth) of every node as a "
        "kernel of its own, without launches and fusion."
    )
    costly = [step for step in found.steps if step.seconds]
    members: dict[tuple[object, ...], list[Step]] = {}
    for step in costly:
        key = (step.node.name,) if all else (step.kind, step.node.role, step.node.operator)
        members.setdefault(key, []).append(step)
    rows = [_path_row(steps, found, all) for steps in members.values()]
    if not all:
        order = sorted(members.values(), key=lambda steps: -sum(s.seconds for s in steps))
        rows = [_path_row(steps, found, all) for steps in order]
    columns = [
        Column("node", least=18) if all else Column("nodes"),
        Column("operator", least=28),
        Column("for", rank=1, least=15),
        Column("bits", rank=2, least=5),
        Column("time"),
        Column("of path"),
        Column("limited by", rank=3, least=10),
        Column("where", rank=4, least=20) if all else Column("", rank=4, least=BAR),
    ]
    return FittedTable(columns, rows, title, [Text(note, wording.QUIET)])


def _path_row(steps: list[Step], found: CriticalPath, all: bool) -> list[Cell]:
    node = steps[0].node
    seconds = sum(step.seconds for step in steps)
    share = seconds / found.seconds if found.seconds else 0.0
    kinds = {step.node.bits for step in steps}
    bounds = sorted({step.bound for step in steps})
    return [
        Text(wording.plain(node.name), wording.NAME) if all else f"{len(steps):,}",
        wording.operator(node),
        node.role or steps[0].kind.value,
        wording.bits(node.bits) if len(kinds) == 1 else "mixed",
        wording.time(seconds),
        wording.share(share),
        " or ".join(bounds),
        node.module if all else _bar(share),
    ]


def precision_path(found: PrecisionPath) -> RenderableType:
    """Where precision is lost along a path.

    Args:
        found: The path.

    Returns:
        What rich prints.
    """
    shared = wording.shared_prefix([loss.site.name for loss in found.losses])
    ends = f"{wording.plain(found.start)} … {wording.plain(found.end)}"
    title = Text.assemble(
        (f"precision along {ends}", wording.NAME),
        f" in {wording.plain(found.stage)}: {found.quantized} of {wording.plural(len(found.losses), 'site')} "
        f"quantized, {wording.plural(len(found.nodes), 'node')}",
        f", below {wording.plain(shared)}" if shared else "",
    )
    rows: list[list[Cell]] = [
        [
            Text(wording.plain(wording.without(loss.site.name, shared)), wording.NAME),
            loss.node.role or " ".join(loss.site.roles),
            wording.bits(loss.bits),
            wording.error(loss.error),
            wording.decibels(loss.site.sqnr if loss.error is not None else None),
            wording.share(loss.share),
            wording.share(loss.running),
            _bar(loss.running),
            loss.node.name,
        ]
        for loss in found.losses
    ]
    columns = [
        Column("site", least=16),
        Column("by", rank=2, least=5),
        Column("bits", least=5),
        Column("error", rank=1),
        Column("SQNR dB", rank=1),
        Column("share", rank=1),
        Column("so far", rank=1),
        Column("", rank=4, least=BAR),
        Column("node", rank=3, least=16),
    ]
    notes = [Text(CAVEAT, wording.QUIET)] if found.measured else []
    if found.quantized > found.measured:
        missing = found.quantized - found.measured
        notes.append(Text(f"no measured error of {wording.plural(missing, 'quantized site')}"))
    return FittedTable(columns, rows, title, notes)


def high_precision(found: HighPrecision) -> RenderableType:
    """What still computes in floats, and why.

    Args:
        found: The groups.

    Returns:
        What rich prints.
    """
    flops = sum(group.flops_share for group in found.groups)
    moved = sum(group.bytes_share for group in found.groups)
    title = Text.assemble(
        (f"in floats in {wording.plain(found.stage)}: ", wording.NAME),
        f"{wording.share(flops)} of {wording.amount(found.flops)} flops, {wording.share(moved)} of "
        f"{wording.size(found.bytes)} read and written",
    )
    rows: list[list[Cell]] = [
        [
            Text(wording.plain(group.what), wording.NAME),
            f"{group.nodes:,}",
            wording.amount(group.flops),
            wording.share(group.flops_share),
            wording.size(group.bytes),
            wording.share(group.bytes_share),
            group.reason,
            wording.listed((name.rpartition(".")[2], n) for name, n in group.operators),
        ]
        for group in found.groups
    ]
    columns = [
        Column("what", least=9),
        Column("nodes"),
        Column("flops", rank=1),
        Column("of flops"),
        Column("bytes", rank=2),
        Column("of bytes"),
        Column("why", least=28),
        Column("operators", rank=3, least=24),
    ]
    note = Text(
        "Nodes as kernels of their own; a compiler that fuses neighbours moves fewer bytes.",
        wording.QUIET,
    )
    return FittedTable(columns, rows, title, [note])


def boundaries(found: tuple[Crossing, ...], stage: str = "") -> RenderableType:
    """Where floats become codes and back.

    Args:
        found: The crossings.
        stage: Name of the stage, for the title.

    Returns:
        What rich prints.
    """
    edges = sum(len(one.edges) for one in found)
    total = sum(one.bytes for one in found)
    place = f" in {wording.plain(stage)}" if stage else ""
    title = Text.assemble(
        (f"between floats and codes{place}: ", wording.NAME),
        f"{wording.plural(edges, 'edge')}, {wording.size(total)} a forward",
    )
    if not found:
        return Group(title, Text("nothing is quantized in this stage"))
    rows: list[list[Cell]] = []
    before = ""
    for one in found:
        rows.append(
            [
                Text(wording.plain(one.group) if one.group != before else "", wording.NAME),
                Text(one.direction, DIRECTIONS[one.direction]),
                wording.bits(one.bits),
                f"{len(one.edges):,}",
                wording.size(one.bytes),
                wording.listed((name.rpartition(".")[2], n) for name, n in one.operators),
            ]
        )
        before = one.group
    columns = [
        Column("of", least=8),
        Column("direction", least=17),
        Column("bits", least=5),
        Column("edges"),
        Column("bytes"),
        Column("at", rank=1, least=16),
    ]
    note = Text(
        "Codes with their scales and zero points, as stored between kernels.", wording.QUIET
    )
    return FittedTable(columns, rows, title, [note])


def _bar(share: float | None) -> Text:
    return Text("█" * round(BAR * (share or 0.0)), "blue")
