"""Results of several runs as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from starquant_fx.integrations.harness.run import Figure, Run


def results_table(runs: Sequence[Run]) -> Table:
    """A row for every metric of every task, a column for every run: mean ± the harness's standard error."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        caption=_caption(runs),
        caption_justify="left",
    )
    for title in ("task", "metric"):
        table.add_column(title)
    for title in ("rows", "shots", *(run.name for run in runs)):
        table.add_column(title, justify="right", no_wrap=True)
    found = [{(f.task, f.metric): f for f in run.figures} for run in runs]
    previous = None
    for key, first in found[0].items():
        task, metric = key
        shown = ("", "") if task == previous else (str(first.samples), str(first.shots))
        table.add_row(
            "" if task == previous else task, metric, *shown, *(_cell(f[key]) for f in found)
        )
        previous = task
    return table


def results_json(
    runs: Sequence[Run], settings: Mapping[str, Any], harness_version: str, complete: bool = True
) -> bytes:
    """What the table says, and how it came about, as JSON; ``complete`` says whether more runs were to come."""
    content = {
        "format": 1,
        "complete": complete,
        "harness": harness_version,
        "settings": dict(settings),
        "runs": [dataclasses.asdict(run) | {"figures": _rows(run)} for run in runs],
    }
    return json.dumps(content, indent=1).encode()


def _rows(run: Run) -> list[dict[str, Any]]:
    return [figure._asdict() for figure in run.figures]


def _cell(figure: Figure) -> str:
    error = "" if figure.stderr is None else f" ± {figure.stderr:.3f}"
    return f"{figure.value:.3f}{error}"


def _caption(runs: Sequence[Run]) -> str:
    times = ", ".join(f"{run.name} {run.seconds:.0f} s" for run in runs)
    cut = sum(run.truncated for run in runs)
    note = f" {cut} contexts were cut on the left to fit the model." if cut else ""
    return f"Mean ± the harness's standard error. Time: {times}.{note}"
