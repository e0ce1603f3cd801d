"""One site in detail on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from starquant_fx.inspection import wording
from starquant_fx.inspection.kinds import site_of
from starquant_fx.inspection.recording import Node, Recording, SiteFacts

Pair = tuple[str, str | Text]


def site(recording: Recording, name: str, stage: str = "") -> RenderableType:
    """A site: its facts, and its nodes in a stage with what they read, give and came from.

    Args:
        recording: The recording.
        name: Of the site, of one of its linears, or the end of either.
        stage: Name of the stage; empty = the last.

    Returns:
        What rich prints.

    Raises:
        InputError: There is no such site or stage.
    """
    found = recording.site(name)
    shown = recording.stage(stage) if stage else recording.last
    own = [node for node in shown.nodes.values() if site_of(node, recording) is found]
    heading = Text.assemble(
        (wording.plain(found.name), wording.NAME), "  ", wording.bits(found.bits)
    )
    parts: list[RenderableType] = [heading, _pairs(_facts(found))]
    parent = found.name.rpartition(".")[0]
    below = f", names below {parent}" if parent else ""
    title = f"{wording.plural(len(own), 'node')} in stage {shown.name}{below}"
    parts += [Text(), Text(wording.plain(title), wording.NAME)]
    for node in own:
        head = Text.assemble(
            (wording.plain(node.name), wording.NAME), "  ", (wording.plain(node.operator), "blue")
        )
        if node.part:
            head.append(f"  {wording.plain(node.part)}")
        if node.bits:
            head.append("  ").append_text(wording.bits(node.bits))
        parts += [head, Padding(_pairs(_about(node, parent)), (0, 0, 0, 2))]
    return Group(*parts)


def _facts(found: SiteFacts) -> Iterator[Pair]:
    linears = zip(found.linears, found.roles, found.outputs, strict=False)
    for name, role, outputs in linears:
        yield role or "linear", f"{name}: {found.features} -> {outputs}"
    if found.reason:
        yield "float because", found.reason
    if found.bits:
        measured = found.error is not None
        text = f"{wording.error(found.error)} = {wording.decibels(found.sqnr)} dB SQNR"
        yield "error", text if measured else "not measured"
    if found.transform:
        gates = f", {found.gates} gates a state" if found.gates else ""
        yield "transform", f"{found.transform}{gates}"
    if found.gates and found.leakage is not None:
        yield "leakage", f"{wording.error(found.leakage)} by the gates alone"
    before, after = wording.size(found.bytes_before), wording.size(found.bytes_after)
    yield "constants", f"{before} as captured, {after} at the end"
    yield "flops", f"{wording.amount(found.flops)} a forward at the end"


def _about(node: Node, parent: str) -> Iterator[Pair]:
    if node.outputs:
        yield "gives", ", ".join(node.outputs)
    if node.sources:
        read = [
            f"{s.argument}={s.node}" + (f":{s.output}" if s.output else "") for s in node.sources
        ]
        yield "reads", ", ".join(read)
    if node.tensors:
        lines = [f"{name}={kind}  {_short(tensor, parent)}" for name, tensor, kind in node.tensors]
        yield "constants", "\n".join(lines)
    if node.arguments:
        yield "arguments", ", ".join(f"{name}={text}" for name, text in node.arguments)
    origin = f" from {', '.join(node.made_from)}" if node.made_from else ""
    yield "made by", f"{node.made_by}{origin}"
    if node.flops or node.bytes:
        yield "costs", f"{wording.amount(node.flops)} flops, {wording.size(node.bytes)}"


def _short(tensor: str, parent: str) -> str:
    """The name of a constant without the module's path, which all of a site's constants share."""
    return wording.without(tensor.removeprefix("starquant."), parent)


def _pairs(pairs: Iterator[Pair]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style=wording.QUIET)
    table.add_column(overflow="fold")
    for title, text in pairs:
        shown = text if isinstance(text, Text) else Text(wording.plain(text))
        table.add_row(Text(wording.plain(title)), shown)
    return table
