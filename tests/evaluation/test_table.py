import dataclasses
import io

import pytest
import torch
from rich.console import Console

from starquant_fx.evaluation import (
    Agreement,
    Comparison,
    Cost,
    Measurement,
    mask_plan,
    summary_sheet,
)


def measurement(nelbo: float, top1: float, kl: float, seconds: float) -> Measurement:
    """The same figures for each of four segments, so that intervals have no width."""
    by_ratio = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64).expand(3, 4)
    drift = kl * by_ratio / 2
    figures = Agreement(1 - (1 - top1) * by_ratio, kl * by_ratio, 0.5 / by_ratio, drift, -drift)
    return Measurement(torch.full((4,), nelbo, dtype=torch.float64), figures, seconds)


@pytest.fixture
def comparison() -> Comparison:
    measurements = {
        "full precision": measurement(3.25, 1.0, 0.0, 1.25),
        "rtn-w4a4": measurement(3.75, 0.75, 0.125, 2.5),
        "star|x-w4a4": measurement(3.3125, 0.9, 0.0001, 12.0),
    }
    return Comparison("full precision", mask_plan(4, 16, seed=5, draws=2), measurements)


COSTS = {"full precision": Cost(13.5), "rtn-w4a4": Cost(4.256, 0.75)}


def drawn(comparison: Comparison, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_sheet(comparison, COSTS).table())
    assert isinstance(console.file, io.StringIO)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


TERMINAL = """\
                weight   NELBO               gap   mask   top-1      KL  compile
recipe              MB    nats     95 % interval  ratio  same %    nats  / run s
────────────────────────────────────────────────────────────────────────────────
full precision   13.50  3.2500                 -      -       -       -        -
                                                                             1.2
rtn-w4a4          4.26  3.7500           +0.5000    .15    75.0    0.12      0.8
                                [0.5000, 0.5000]     .5    50.0    0.25      2.5
                                                     .9    25.0    0.38
star|x-w4a4          -  3.3125           +0.0625    .15    90.0  0.0001        -
                                [0.0625, 0.0625]     .5    80.0  0.0002     12.0
                                                     .9    70.0  0.0003
4 held-out segments of 16 tokens. NELBO per token, by 2 random masks a segment
(seed 5), the same for all; gap to full precision, paired by segment; top-1
agreement and KL with full precision on masked tokens; MB = 10^6 bytes; run:
this table's forward passes.
"""


def test_the_table_fits_80_columns(comparison: Comparison) -> None:
    assert drawn(comparison) == TERMINAL


def test_markdown_has_the_same_cells_and_escapes_what_would_split_one(
    comparison: Comparison,
) -> None:
    *lines, empty, caption, end = summary_sheet(comparison, COSTS).markdown().split("\n")
    assert (empty, end) == ("", "")
    assert " ".join(TERMINAL.splitlines()[-4:]) == caption
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    assert cells[0][:4] == ["recipe", "weight MB", "NELBO nats", "gap 95 % interval"]
    assert cells[1] == ["---"] + ["---:"] * 7
    assert cells[2] == ["full precision", "13.50", "3.2500", "-", "-", "-", "-", "- / 1.2"]
    name, weight, nats, gap, ratio, same, kl, seconds = cells[4]
    assert (name, weight, nats) == ("star\\|x-w4a4", "-", "3.3125")
    assert (gap, ratio) == ("+0.0625 / [0.0625, 0.0625]", ".15 / .5 / .9")
    assert (same, kl) == ("90.0 / 80.0 / 70.0", "0.0001 / 0.0002 / 0.0003")
    assert seconds == "- / 12.0"


def test_names_are_no_markup(comparison: Comparison) -> None:
    named = {"[bold]a[/bold]": comparison.measurements["rtn-w4a4"], **comparison.measurements}
    assert "[bold]a[/bold]" in drawn(dataclasses.replace(comparison, measurements=named), 100)
