"""The CPU benchmark's rows, tables and summaries, by hand."""

from __future__ import annotations

from typing import Any

from cpu_suite.rows import Row
from cpu_suite.summaries import by_threads, summary
from cpu_suite.tables import line, table
from cpu_suite.variants import HEAD8, VARIANTS


def row(variant: str, *seconds: float, **more: Any) -> Row:
    kind = VARIANTS[variant].kind
    base = {"model": "m", "shape": "1x10", "threads": 1, "tokens": 10, "operations": 1000}
    return Row(**{**base, "variant": variant, "kind": kind, "seconds": list(seconds), **more})


def test_the_summary_by_hand() -> None:
    half: dict[str, Any] = {"masked": True, "operations": 500}
    rows = [
        row("int8 limit", 0.2, 0.1, 0.3),
        row("bf16", 2.0, weight_bytes=400, peak_bytes=800),
        row("bf16 compiled", 1.0, weight_bytes=400, peak_bytes=1600),
        row("fp32", 4.0),
        row("onnxruntime quantize_dynamic", 0.8),
        row("torchao int8 compiled", 0.1, reason="failed in the middle"),
        row("star-w4a4", 0.5, 0.4, 9.0, weight_bytes=100, peak_bytes=400),
        row(HEAD8, 0.4, weight_bytes=1),
        row("int8 limit", 0.1, **half),
        row("bf16", 0.75, **half),
        row("star-w4a4", 0.25, **half),
    ]
    found = summary(rows)
    assert found == {
        "w4a4_vs_bf16": 2.0,
        "w4a4_vs_fp32": 8.0,
        "w4a4_vs_best_peer": 1.6,
        "weights_vs_bf16": 0.25,
        "time_vs_int8_ceiling": 2.5,  # 1000 operations at 1000 / 0.2 a second take 0.2 s
        "w4a4_int8_head_vs_bf16": 2.5,
        "w4a4_int8_head_vs_fp32": 10.0,
        "w4a4_int8_head_vs_best_peer": 2.0,
        "w4a4_int8_head_time_vs_int8_ceiling": 2.0,
        "peak_rss_vs_bf16": 0.5,
        "masked_w4a4_vs_bf16": 3.0,
        "masked_w4a4_time_vs_int8_ceiling": 2.5,
        "masked_w4a4_int8_head_vs_bf16": None,
        "masked_w4a4_int8_head_time_vs_int8_ceiling": None,
    }
    assert set(summary([row("star-w4a4", 1.0)]).values()) == {None}
    assert set(summary([])) == set(found)


def test_the_summary_is_of_the_first_number_of_threads_and_others_lie_beside_it() -> None:
    rows = [
        *(row(name, seconds, threads=2) for name, seconds in (("bf16", 2.0), ("star-w4a4", 1.0))),
        *(row(name, seconds, threads=1) for name, seconds in (("bf16", 9.0), ("star-w4a4", 3.0))),
    ]
    both = by_threads(rows, [1, 2])
    assert both == {"summary": summary(rows[2:]), "summary_by_threads": {"2": summary(rows[:2])}}
    assert by_threads(rows, [2]) == {"summary": summary(rows[:2])}


def test_a_line_by_hand() -> None:
    one = row("star-w4a4", 0.5, 0.4, 1.0, bf16_seconds=1.0, limit_seconds=0.2, head="bf16")
    one.weight_bytes, one.peak_bytes, one.error = 1_500_000, 250_000_000, 0.125
    one.load_seconds, one.first_seconds = 12.34, 0.456
    assert (
        line(one)
        == "| star-w4a4 | 20 | 10-25 | 2.00 | 40 | 1.5 | 250 | 12.3 | 0.46 | 0.12 | bf16 |"
    )
    bad = row("bf16", reason="it fell over")
    assert line(bad).startswith("| bf16 | not measured: it fell over |")
    assert line(bad).count("|") == line(one).count("|")
    assert "- bf16: slow" in table("t", [row("bf16", 1.0, note="slow")])
