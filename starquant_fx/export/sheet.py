"""The report of an export as text."""

from __future__ import annotations

import collections

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from starquant_fx.export.api import ExportReport
from starquant_fx.export.verify import OPTIONS, Comparison, Verification

MEGABYTE = 1e6


def sheet(report: ExportReport) -> RenderableType:
    """What was written and found, to be printed by rich."""
    sizes = ", ".join(f"{name} {size / MEGABYTE:.1f} MB" for name, size in report.bytes.items())
    head = Text(
        f"wrote {report.folder}: {report.flavour}, head {report.head}, opset {report.opset}, "
        f"{report.nodes} nodes, {report.seconds:.1f} s\n  {sizes}"
    )
    if report.verification is None:
        return Group(head, Text("  not verified: --no-verify was given", style="yellow"))
    return Group(head, *_found(report.flavour, report.verification))


def _found(flavour: str, found: Verification) -> list[RenderableType]:
    table = Table(title="against the reference target", title_justify="left")
    for column in ("call", *(f"error, {name} options" for name in OPTIONS), "same tokens"):
        table.add_column(column, justify="left" if column == "call" else "right")
    by_case: dict[str, dict[str, Comparison]] = collections.defaultdict(dict)
    for one in found.comparisons:
        by_case[one.case][one.options] = one
    for case, runs in by_case.items():
        errors = [f"{runs[name].error:.1e}" for name in OPTIONS]
        table.add_row(case, *errors, f"{runs['default'].agreement:.1%}")
    kinds = collections.Counter(linear.kernel for linear in found.linears)
    lines: list[RenderableType] = [
        table,
        Text(
            f"onnxruntime runs {len(found.linears)} quantized linears as "
            + ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        ),
    ]
    slow = found.float_fallbacks
    if slow and flavour != "qdq":
        names = ", ".join(linear.name for linear in slow[:4])
        more = f" and {len(slow) - 4} more" if len(slow) > 4 else ""
        lines.append(
            Text(f"warning: {len(slow)} run in floating point: {names}{more}", style="yellow")
        )
    elif slow:
        lines.append(
            Text(
                f"warning: all {len(slow)} run in floating point: the portable flavour says what is computed, "
                "--flavour integer makes onnxruntime do it in integers"
                if len(slow) == len(found.linears)
                else f"warning: {len(slow)} of {len(found.linears)} run in floating point",
                style="yellow",
            )
        )
    if flavour == "nbits":
        lines.append(
            Text(
                f"note: under default options onnxruntime also quantizes activations, error "
                f"{found.error('default'):.1e}; strict ones do not, {found.error('strict'):.1e}",
                style="yellow",
            )
        )
    return lines
