"""The flat summary, and what the project wants."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cpu_suite.rows import quotient
from onnx_suite.rows import OnnxRow
from onnx_suite.variants import CHECKED, DYNAMIC, HEAD8

Summary = dict[str, float | int | None]
INTEGER = f"rtn-w8a8{HEAD8}, integer"
"""Quantizes the linears that ``quantize_dynamic`` does, the head among them: what its speed is compared with."""
FLOAT_HEAD = "rtn-w8a8, integer"
STAR = "star-w8a8, integer"
TINY = "llada-tiny"


def summary(rows: Sequence[OnnxRow]) -> Summary:
    """What decides.

    Args:
        rows: Of all models.

    Returns:
        Speed ratios are of the random model, or of the shipped one if it alone was measured; errors are the largest of
        all verified exports whose activations are quantized; fallbacks those of the integer export that has most.
        Without figures of one of them these are None; ``failed`` counts the rows that have none.
    """
    found: Summary = {}
    for kind, masked in (("", False), ("masked_", True)):
        for key, name in (("integer", INTEGER), ("integer_float_head", FLOAT_HEAD)):
            row = decisive(rows, name, masked)
            found[f"{kind}{key}_vs_fp32"] = None if row is None else row.vs_fp32
            found[f"{kind}{key}_vs_quantize_dynamic"] = None if row is None else row.vs_dynamic
    failed = [row for row in rows if row.reason]
    found["failed"] = len(failed)
    integers = [row for row in rows if _flavour(row) == "integer" and row.block_linears]
    worst = max(
        integers, key=lambda row: (row.float_fallbacks or 0, row.block_linears), default=None
    )
    found["float_fallbacks"] = None if worst is None else worst.float_fallbacks
    found["block_linears"] = None if worst is None else worst.block_linears
    errors = [row.max_rel_error for row in rows if row.max_rel_error is not None]
    unknown = any(_flavour(row) in CHECKED for row in failed) or not all(map(math.isfinite, errors))
    found["max_rel_error"] = None if unknown else max(errors, default=None)
    if any(_flavour(row) == "integer" for row in failed):
        found["float_fallbacks"] = None
    return found


def decisive(rows: Sequence[OnnxRow], name: str, masked: bool = False) -> OnnxRow | None:
    """A variant's row with times, of the random model if there is one."""
    some = [r for r in rows if r.variant == name and r.masked == masked and r.median is not None]
    return next((row for row in some if row.model != TINY), some[0] if some else None)


def goals(rows: Sequence[OnnxRow]) -> list[dict[str, object]]:
    """Every goal with what was measured, JSON-ready."""
    found = summary(rows)
    gaps = {row.variant: row.gap for row in rows if row.model == TINY and not row.masked}
    speeds = [
        (f"{what}: speed, times the fp32 export", ">= 2.5", found[f"{key}_vs_fp32"])
        for what, key in SIDES
    ]
    speeds += [
        (f"{what}: speed, times quantize_dynamic", ">= 1", found[f"{key}_vs_quantize_dynamic"])
        for what, key in SIDES
    ]
    star, dynamic = gaps.get(STAR), gaps.get(DYNAMIC)
    apart = quotient(*(None if value is None else abs(value) for value in (star, dynamic)))
    name = f"{STAR}: size of the NELBO gap on {TINY}, as a share of quantize_dynamic's"
    return [
        {"name": name, "wanted": wanted, "measured": value}
        for name, wanted, value in [*speeds, (name, "< 1", apart)]
    ]


SIDES = ((INTEGER, "integer"), (FLOAT_HEAD, "integer_float_head"))


def _flavour(row: OnnxRow) -> str:
    return row.variant.rpartition(", ")[2]
