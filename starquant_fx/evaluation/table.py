"""A comparison as a table, for the terminal and for documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from starquant_fx.evaluation.comparison import Comparison

Cell = tuple[str, ...]
"""The lines of a cell."""
TITLES: tuple[Cell, ...] = (
    ("recipe",),
    ("weight", "MB"),
    ("NELBO", "nats"),
    ("gap", "95 % interval"),
    ("mask", "ratio"),
    ("top-1", "same %"),
    ("KL", "nats"),
    ("compile", "/ run s"),
)
NOTHING: Cell = ("-",)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs beside accuracy; the caller measures it.

    Attributes:
        weights_mb: Weights in memory, in 10^6 bytes.
        compile_seconds: Time to compile it; None for a model that was not compiled.
    """

    weights_mb: float
    compile_seconds: float | None = None


def to_table(comparison: Comparison, costs: Mapping[str, Cost]) -> Table:
    """Renders a comparison for the terminal; 80 columns are enough for names up to 14 characters.

    Args:
        comparison: The measurements.
        costs: Costs of the models by name; a model without an entry gets dashes.

    Returns:
        A rich table, a row of up to three lines for each model.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=_caption(comparison),
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for title in TITLES:
        table.add_column(_lines(title), justify="left" if title == TITLES[0] else "right")
    for name in comparison.measurements:
        table.add_row(*(_lines(cell) for cell in _row(comparison, name, costs.get(name))))
    return table


def to_markdown(comparison: Comparison, costs: Mapping[str, Cost]) -> str:
    """Renders a comparison as a Markdown table with its caption below.

    Args:
        comparison: The measurements.
        costs: Costs of the models by name; a model without an entry gets dashes.

    Returns:
        The text, which ends with a line end.
    """
    rows = [_row(comparison, name, costs.get(name)) for name in comparison.measurements]
    header = [" ".join(title) for title in TITLES]
    lines = [header, ["---", *["---:"] * (len(TITLES) - 1)]]
    lines += [[" / ".join(cell).replace("|", "\\|") for cell in row] for row in rows]
    drawn = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*drawn, "", _caption(comparison), ""])


def _lines(cell: Cell) -> Text:
    return Text("\n".join(cell))  # Text, because a name may hold what rich takes for markup


def _row(comparison: Comparison, name: str, cost: Cost | None) -> list[Cell]:
    """One model's cells."""
    gap = ratios = top1 = kl = NOTHING
    if name != comparison.reference:
        difference = comparison.gap(name)
        gap = f"{difference.mean:+.4f}", f"[{difference.low:.4f}, {difference.high:.4f}]"
        ratios = tuple(f"{ratio:g}".removeprefix("0") for ratio in comparison.plan.ratios)
        figures = comparison.measurements[name].agreement
        top1 = tuple(f"{100 * share:.1f}" for share in figures.top1.mean(1).tolist())
        kl = tuple(f"{value:.2g}" for value in figures.kl.mean(1).tolist())
    compiling = cost.compile_seconds if cost else None
    return [
        (name,),
        (f"{cost.weights_mb:.2f}",) if cost else NOTHING,
        (f"{float(comparison.measurements[name].nelbo.mean()):.4f}",),
        gap,
        ratios,
        top1,
        kl,
        (
            "-" if compiling is None else f"{compiling:.1f}",
            f"{comparison.measurements[name].seconds:.1f}",
        ),
    ]


def _caption(comparison: Comparison) -> str:
    draws, count, length = comparison.plan.likelihood.shape
    return (
        f"{count} held-out segments of {length} tokens. NELBO per token, by {draws} random "
        f"mask{'s' * (draws > 1)} a segment (seed {comparison.plan.seed}), the same for all; gap to "
        f"{comparison.reference}, paired by segment; top-1 agreement and KL with "
        f"{comparison.reference} on masked tokens; MB = 10^6 bytes; run: this table's forward passes."
    )
