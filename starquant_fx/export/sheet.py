"""The report of an export as text."""

from __future__ import annotations

import collections

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from starquant_fx.export.api import ExportReport
from starquant_fx.export.kernels import NBITS
from starquant_fx.export.verify import OPTIONS, Verification
from starquant_fx.runtime.metadata import TOKENIZER
from starquant_fx.sizes import shown_size

EXACT = 1e-4
"""Errors below this are of the order of the sums in float32."""


def sheet(report: ExportReport) -> RenderableType:
    """What was written and found, to be printed by rich; it is made for 80 columns."""
    total = sum(report.bytes.values())
    files = ", ".join(report.bytes)
    lines: list[RenderableType] = [
        Text(f"wrote {report.folder}"),
        Text(
            f"  {report.flavour}, head {report.head}, opset {report.opset}, {report.nodes} nodes, "
            f"{report.seconds:.1f} s\n  {shown_size(total)}: {files}"
        ),
    ]
    if TOKENIZER not in report.bytes:
        lines.append(Text(f"  no {TOKENIZER}: the runtime takes token ids, no text"))
    if report.verification is None:
        lines.append(Text("  not verified: verification was turned off", style="yellow"))
    else:
        lines += [Text(""), *_found(report, report.verification)]
    return Group(*lines)


def _found(report: ExportReport, found: Verification) -> list[RenderableType]:
    lines: list[RenderableType] = [
        Text(
            "against the reference target: error (largest difference / largest value) under\n"
            "onnxruntime's default and its strict options, and same tokens (default)"
        ),
        _table(found),
    ]
    doubts = found.doubts(report.flavour)
    if doubts:
        lines.append(
            Text(
                "warning: the export does not seem to compute what the reference does; do not use it",
                style="bold red",
            )
        )
        lines += [Text(f"  {doubt}", style="red") for doubt in doubts]
    elif any(linear.kernel == NBITS for linear in found.linears):
        lines.append(
            _note(
                "note: by default onnxruntime may quantize activations, too; strict options "
                "(runtime.load(..., strict=True), generate --strict) keep them in float32"
            )
        )
    elif found.error() > EXACT:
        lines.append(
            _note(
                "note: some calls differ by what activations on the tie between two codes make: float32 "
                "sums in another order round them the other way, and later layers amplify it"
            )
        )
    return [*lines, *_kernels(report.flavour, found)]


def _table(found: Verification) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("states, batch x length", *OPTIONS, "same tokens"):
        left = column.startswith("states")
        table.add_column(column, justify="left" if left else "right", no_wrap=not left)
    runs = [[c for c in found.comparisons if c.options == name] for name in OPTIONS]
    for same in zip(*runs, strict=True):
        errors = [f"{one.error:.1e}" for one in same]
        table.add_row(same[0].case, *errors, f"{same[0].agreement:.1%}")
    return table


def _kernels(flavour: str, found: Verification) -> list[Text]:
    """What the linears run as, and a warning where that is in floating point."""
    if not found.linears:
        return [_note("warning: no linear is quantized: the recipe leaves all in full precision")]
    kinds = collections.Counter(linear.kernel for linear in found.linears)
    named = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
    lines = [Text(f"onnxruntime runs {len(found.linears)} quantized linears as {named}")]
    slow = found.float_fallbacks
    if slow and flavour == "qdq" and len(slow) == len(found.linears):
        lines.append(
            _note(
                f"warning: all {len(slow)} run in floating point: the portable flavour says what is "
                "computed; other flavours are for speed: integer, or nbits where only weights are quantized"
            )
        )
    elif slow:
        lines.append(_note(f"warning: {len(slow)} of {len(found.linears)} run in floating point:"))
        lines += [_note(f"  {linear.name} ({linear.kernel})") for linear in slow]
    return lines


def _note(text: str) -> Text:
    return Text(text, style="yellow")
