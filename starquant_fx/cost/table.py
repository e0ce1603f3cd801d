"""The cost model's answers as tables and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from starquant_fx.cost.chips import Chip
from starquant_fx.cost.graph import GraphCost
from starquant_fx.cost.roofline import Prediction, peak_activations, predict, rows_by
from starquant_fx.cost.shapes import Shape
from starquant_fx.cost.subject import Costs
from starquant_fx.cost.units import UNITS
from starquant_fx.sizes import shown_size


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is predicted.

    Attributes:
        chips: On these.
        shapes: For these tokens.
        group: What nodes are summed by, a key of ``roofline.GROUPS``.
        compiled: See ``roofline.predict``.
    """

    chips: Sequence[Chip]
    shapes: Sequence[Shape]
    group: str
    compiled: bool


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=Text(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left"
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _times(costs: Costs, chip: Chip, shape: Shape, compiled: bool) -> list[Prediction]:
    graphs = (costs.bf16, costs.quantized)
    return [predict(graph, chip, shape, compiled=compiled) for graph in graphs]


def _peaks(costs: Costs, shape: Shape, compiled: bool) -> list[float]:
    graphs = (costs.bf16, costs.quantized)
    return [g.weights + peak_activations(g, shape, compiled=compiled) for g in graphs]


def predictions(costs: Costs, asked: Asked) -> Table:
    """Time and peak memory of both graphs; shares of time and numbers of kernels are the quantized one's."""
    table = _table(
        f"Predicted, not measured: {costs.title}, {costs.recipe} on {costs.target} and bf16",
        *("chip", "tokens", "logits", "bf16 ms", "ms", "x bf16", "computing", "moving", "kernels"),
        *("bf16 GB", "GB", "share"),
    )
    for chip in asked.chips:
        for shape in asked.shapes:
            before, after = _times(costs, chip, shape, asked.compiled)
            plain, low = _peaks(costs, shape, asked.compiled)
            table.add_row(
                *(chip.name, str(shape), str(shape.rows or "all")),
                *(f"{1e3 * p.seconds:.3g}" for p in (before, after)),
                f"{before.seconds / after.seconds:.2f}",
                *(f"{part / after.seconds:.0%}" for part in (after.compute, after.memory)),
                str(after.launches),
                *(f"{size / 1e9:.3g}" for size in (plain, low)),
                f"{low / plain:.3f}",
            )
    return table


def groups(costs: Costs, asked: Asked) -> Table:
    """The quantized graph's nodes, summed, at the first shape on the first chip."""
    chip, shape = asked.chips[0], asked.shapes[0]
    rows = rows_by(costs.quantized, chip, shape, asked.group, compiled=asked.compiled)
    whole = sum(row.seconds for row in rows) or 1.0
    table = _table(
        f"{costs.recipe} by {asked.group}, {shape} tokens on {chip.name}",
        *(asked.group, "calls", *(f"G {unit}" for unit in UNITS)),
        *("weights MB", "activations MB", "ms", "share"),
    )
    for row in rows:
        table.add_row(
            Text(row.name),
            str(row.nodes),
            *(f"{row.operations.get(unit, 0.0) / 1e9:.4g}" for unit in UNITS),
            *(f"{size / 1e6:.4g}" for size in (row.weights, row.activations)),
            f"{1e3 * row.seconds:.3g}",
            f"{row.seconds / whole:.1%}",
        )
    return table


def symbols(costs: Costs) -> Table:
    """Totals as polynomials in B, L and R."""
    table = _table("Totals: B sequences of L tokens, R rows of logits", "graph", "what", "total")
    table.columns[1].justify = table.columns[2].justify = "left"
    table.columns[2].no_wrap = False
    for name, graph in (("bf16", costs.bf16), (costs.recipe, costs.quantized)):
        for what, total in symbolic(graph).items():
            table.add_row(Text(name), what, total)
    return table


def symbolic(graph: GraphCost) -> dict[str, str]:
    """A graph's totals as text."""
    return {
        **{f"operations {unit}": str(graph.operations(unit)) for unit in UNITS},
        "bytes, every call a kernel": str(graph.moved(False)),
        "bytes, elementwise fused": str(graph.moved(True)),
        "kernels, every call a kernel": str(graph.launches(False)),
        "kernels, elementwise fused": str(graph.launches(True)),
        "weights, bytes": str(graph.weights),
    }


def sentences(costs: Costs, asked: Asked) -> list[str]:
    """What stands below the tables: weights, launches, sources, and what was estimated."""
    before, after = costs.bf16, costs.quantized
    said = [
        f"weights: {shown_size(before.weights)} in bf16 -> {shown_size(after.weights)} "
        f"({after.weights / before.weights:.3f}, {before.weights / after.weights:.2f}x smaller)",
        f"kernels: bf16 {before.launches(False)}, with elementwise neighbours fused {before.launches(True)}; "
        f"{costs.recipe} {after.launches(False)}, fused {after.launches(True)}",
        "assumed: elementwise calls between other kernels are one kernel, launches captured in a graph where the chip "
        "can"
        if asked.compiled
        else "assumed: every call is a kernel of its own and is launched from Python",
    ]
    for chip in asked.chips:
        rates = {**chip.rates, "bandwidth": chip.bandwidth}
        listed = "; ".join(f"{u} {r.value / 1e12:.4g} T/s ({r.source})" for u, r in rates.items())
        said.append(f"{chip.name}: {listed}")
    names = sorted({*before.estimated, *after.estimated})
    if names:
        said.append(f"estimated, one operation an element: {', '.join(names)}")
    return [*said, *notes(costs, asked)]


def notes(costs: Costs, asked: Asked) -> list[str]:
    """What has to be known to read the costs, and chips that the target does not run on."""
    wrong = {"triton": [c.name for c in asked.chips if not c.architecture]}
    wrong["cpu"] = [c.name for c in asked.chips if c.architecture]
    names = wrong.get(costs.target)
    if not names:
        return list(costs.notes)
    what = "GPUs" if costs.target == "triton" else "the CPU"
    return [
        *costs.notes,
        f"the target {costs.target} is for {what} and does not run on {', '.join(names)}: its graph is "
        "counted with the chip's rates all the same",
    ]


def as_json(costs: Costs, asked: Asked) -> dict[str, Any]:
    """All of it as JSON-ready values."""
    predicted = []
    for chip in asked.chips:
        for shape in asked.shapes:
            times = _times(costs, chip, shape, asked.compiled)
            peaks = _peaks(costs, shape, asked.compiled)
            rows = rows_by(costs.quantized, chip, shape, asked.group, compiled=asked.compiled)
            one: dict[str, Any] = {
                "chip": chip.name,
                "tokens": str(shape),
                "rows": shape.rows,
                asked.group: [dataclasses.asdict(row) for row in rows],
            }
            for name, time, peak in zip(("bf16", "quantized"), times, peaks, strict=True):
                values = dataclasses.asdict(time)
                del values["by_kernel"]
                one[name] = {**values, "peak_bytes": peak}
            predicted.append(one)
    return {
        "model": costs.model,
        "recipe": costs.recipe,
        "target": costs.target,
        "compiled": asked.compiled,
        "chips": [dataclasses.asdict(chip) for chip in asked.chips],
        "totals": {"bf16": symbolic(costs.bf16), "quantized": symbolic(costs.quantized)},
        "estimated": sorted({*costs.bf16.estimated, *costs.quantized.estimated}),
        "layers": costs.layers,
        "notes": notes(costs, asked),
        "predictions": predicted,
    }
