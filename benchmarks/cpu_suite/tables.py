"""From rows to Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cpu_suite.rows import Row

HEADER = (
    "| | tokens/s | range | × bf16 | int8 limit, % | weights MB | peak RSS MB | load s | first s "
    "| logits error | head |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)


def table(title: str, rows: Sequence[Row]) -> str:
    """A Markdown table of one model, shape and number of threads, with what its rows note below.

    Args:
        title: Its heading.
        rows: Its lines.
    """
    notes = [f"- {row.variant}: {row.note}" for row in rows if row.note]
    notes += [""] if notes else []
    return "\n".join([f"### {title}", "", HEADER, *map(line, rows), "", *notes])


def line(row: Row) -> str:
    """One line; of a row without figures the reason."""
    if row.median is None:
        return f"| {row.variant} | not measured: {row.reason or 'no forward'} |" + " |" * 9
    low, high = (row.tokens / value for value in (max(row.seconds), min(row.seconds)))
    cells = (
        _number(row.tokens_per_second, lambda v: f"{v:.0f}"),
        f"{low:.0f}-{high:.0f}",
        _number(row.ratio, lambda v: f"{v:.2f}"),
        _number(row.share, lambda v: f"{100 * v:.0f}"),
        _number(row.weight_bytes, lambda v: f"{v / 1e6:.1f}"),
        _number(row.peak_bytes, lambda v: f"{v / 1e6:.0f}"),
        _number(row.load_seconds, lambda v: f"{v:.1f}"),
        _number(row.first_seconds, lambda v: f"{v:.2g}" if v < 1 else f"{v:.1f}"),
        _number(row.error, lambda v: f"{v:.2g}"),
        row.head,
    )
    return f"| {row.variant} | " + " | ".join(cells) + " |"


def _number(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)
