"""From rows to Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_suite.tables import goals_text, number
from onnx_suite.rows import OnnxRow
from onnx_suite.summaries import goals

COLUMNS = (
    "ms",
    "range",
    "tokens/s",
    "× fp32",
    "× quantize_dynamic",
    "star adds ms",
    "load s",
    "peak MB",
    "disk MB",
    "NELBO gap, mnats (95 %)",
    "max rel. error",
    "in float",
)
HEADER = "| | " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * len(COLUMNS)


def table(rows: Sequence[OnnxRow]) -> str:
    """A Markdown table of one model, shape and kind of logits."""
    first = rows[0]
    logits = "of the masked tokens" if first.masked else "of all tokens"
    plural = "" if first.threads == 1 else "s"
    where = f"{first.shape} tokens, {first.threads} thread{plural}, logits {logits}"
    title = f"### {first.model}, {where if first.tokens else 'verified only'}"
    notes = [f"- {row.variant}: {row.note}" for row in rows if row.note]
    notes += [""] if notes else []
    return "\n".join([title, "", HEADER, *map(line, rows), "", *notes])


def line(row: OnnxRow) -> str:
    """One line; of a row without figures the reason."""
    if row.reason or (row.tokens and row.median is None):
        blank = " |" * (len(COLUMNS) - 1)
        return f"| {row.variant} | not measured: {row.reason or 'no forward'} |{blank}"
    milliseconds = [1e3 * value for value in row.seconds]
    gap = None
    if row.gap is not None and row.gap_low is not None and row.gap_high is not None:
        gap = f"{1e3 * row.gap:.2f} [{1e3 * row.gap_low:.2f}, {1e3 * row.gap_high:.2f}]"
    fallbacks = None if row.block_linears is None else f"{row.float_fallbacks}/{row.block_linears}"
    cells = (
        number(row.median, lambda v: f"{1e3 * v:.4g}"),
        f"{min(milliseconds):.4g}-{max(milliseconds):.4g}" if milliseconds else "-",
        number(row.tokens_per_second, lambda v: f"{v:.0f}"),
        number(row.vs_fp32, lambda v: f"{v:.2f}"),
        number(row.vs_dynamic, lambda v: f"{v:.2f}"),
        number(row.star_adds, lambda v: f"{1e3 * v:.3g}"),
        number(row.load_seconds, lambda v: f"{v:.2g}"),
        number(row.peak_bytes, lambda v: f"{v / 1e6:.0f}"),
        number(row.disk_bytes, lambda v: f"{v / 1e6:.1f}"),
        gap or "-",
        number(row.max_rel_error, lambda v: f"{v:.1e}"),
        fallbacks or "-",
    )
    return f"| {row.variant} | " + " | ".join(cells) + " |"


def tables(rows: Sequence[OnnxRow]) -> str:
    """A table for each model, shape and kind of logits, in the order of the rows."""
    groups: dict[tuple[str, str, bool], list[OnnxRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.shape, row.masked), []).append(row)
    return "\n".join(map(table, groups.values()))


def goals_table(rows: Sequence[OnnxRow]) -> str:
    """What is wanted and what was measured."""
    return goals_text(goals(rows))
