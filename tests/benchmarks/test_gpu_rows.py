"""The GPU benchmark's rows, tables and goals, by hand."""

from __future__ import annotations

from typing import Any

from cpu_suite.specs import Shape
from gpu_suite.forwards import FORWARD, GENERATION, SPENT, compare, rounds
from gpu_suite.goals import GOALS, goals
from gpu_suite.kernels import BF16, INT8, add_ceiling
from gpu_suite.rows import Check, KernelRow, ModelRow
from gpu_suite.tables import checks_text, goals_text, kernels_text, model_line, models_text
from gpu_suite.variants import COMPILED, EAGER, EMBED8, HEADLINE, VARIANTS


def row(variant: str, *seconds: float, **more: Any) -> ModelRow:
    base: dict[str, Any] = {
        "model": "llada-8b",
        "shape": "4x1024",
        "kind": VARIANTS[variant].kind,
        "masked": False,
        "task": FORWARD,
        "tokens": 4096,
    }
    return ModelRow(**{**base, "variant": variant, "seconds": list(seconds), **more})


def test_ratios_are_to_the_fastest_bf16_and_the_least_memory_of_it() -> None:
    rows = [
        row(EAGER, 4.0, weight_bytes=1000, peak_bytes=3000),
        row(COMPILED, 3.0, 2.0, 9.0, weight_bytes=1000, peak_bytes=4000),
        row(HEADLINE, 1.5, weight_bytes=280, peak_bytes=1000),
        row("star-w8a8", reason="it fell over"),
    ]
    compare(rows)
    assert [one.ratio for one in rows] == [0.75, 1.0, 2.0, None]
    assert rows[2].weight_share == 0.28
    assert rows[2].peak_share == 1000 / 3000
    assert rows[2].tokens_per_second == 4096 / 1.5
    assert rows[2].to_dict()["ratio"] == 2.0


def test_a_generation_tells_the_time_of_a_step() -> None:
    one = row(HEADLINE, 3.2, task=GENERATION, steps=32, tokens=2048)
    assert one.milliseconds == 100.0
    assert one.tokens_per_second == 640.0


def test_lines_by_hand() -> None:
    one = row(HEADLINE, 0.5, head="bf16", weight_bytes=5_000_000_000, peak_bytes=6_100_000_000)
    one.bf16_seconds, one.bf16_weight_bytes = 1.0, 16_000_000_000
    assert model_line(one) == "| star-w4a4 | 500 | 8192 | 2.00 | 5.00 | 0.31 | 6.10 | - | bf16 |"
    bad = row(EAGER, reason="not installed: x")
    assert model_line(bad).startswith("| bf16 eager | not measured: not installed: x |")
    assert model_line(bad).count("|") == model_line(one).count("|")
    text = models_text([one, bad, row(HEADLINE, 1.0, shape="1x64", note="slow")])
    assert text.count("### ") == 2
    assert "1x64 (forward of a short block): forward, logits of all tokens" in text
    assert "- star-w4a4: slow" in text


def test_rows_with_one_reason_are_one_line_and_tables_without_figures_are_none() -> None:
    late = [row(name, reason=SPENT) for name in (EMBED8, "star-w8a8", "fp8 scaled_mm")]
    rows = [row(EAGER, 1.0), *late, row("torchao int8", reason="absent")]
    rows += [row(name, reason=SPENT, shape="16x1024") for name in (EAGER, HEADLINE)]
    rows += [row(HEADLINE, reason=SPENT, shape="16x1024", task=GENERATION)]
    text = models_text(rows)
    assert text.count("### ") == 2
    assert text.count(SPENT) == 2
    assert f"| {EMBED8}, star-w8a8, fp8 scaled_mm | not measured: {SPENT} |" in text
    assert (
        "- llada-8b: bf16 eager, star-w4a4; forward 16x1024, generation 16x1024: the time" in text
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_full_precision_is_called_by_its_real_type() -> None:
    text = models_text([row(EAGER, 1.0, head="bf16", floats="float32")])
    assert "bf16" not in text
    assert "| float32 eager | 1000 |" in text


def test_the_ceiling_is_that_of_the_fastest_int8_product() -> None:
    rows = [
        KernelRow(BF16, "8x8", 4, operations=400, seconds=4.0),
        KernelRow(INT8, "8x8", 4, operations=400, seconds=2.0),
        KernelRow("tile_linear w4a4", "8x8", 4, operations=400, seconds=8.0, bf16_seconds=4.0),
        KernelRow("tile_site a4", "8 channels", 4, bytes=600, seconds=2.0),
        KernelRow("tile_prepare", "8 channels", 4, reason="absent"),
    ]
    assert add_ceiling(rows) == 200.0
    assert rows[2].share == 0.25
    assert rows[2].ratio == 0.5
    assert rows[3].bandwidth == 300.0
    assert rows[3].share is None
    lines = kernels_text(rows, 200.0).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "| tile_prepare | 8 channels | 4 | not measured: absent |" in "\n".join(lines)


def test_failures_are_listed_and_alike_reasons_are_told_once() -> None:
    text = checks_text(
        [
            Check("a", True),
            Check("b", False, "3 of 4 differ"),
            Check("c", None, "no GPU"),
            Check("d", None, "no GPU"),
        ]
    )
    assert "1 of 4 passed" in text
    assert "- FAILED: b: 3 of 4 differ" in text
    assert "- not run: 2 checks: no GPU" in text


def test_goals_are_of_the_rows_that_they_name() -> None:
    rows = [
        row(HEADLINE, 0.5, bf16_seconds=1.0),
        row(HEADLINE, 0.5, bf16_seconds=9.0, masked=True),
        row(HEADLINE, 0.5, bf16_seconds=9.0, model="dream-7b"),
        row(EMBED8, 1.0, shape="1x1024", weight_bytes=1, bf16_weight_bytes=4),
    ]
    found = [goal["measured"] for goal in goals(rows)]
    assert found == [2.0, None, None, None, 0.25, None]
    assert goals_text(goals([])).count("not measured") == len(GOALS)
    assert {goal.variant for goal in GOALS} <= set(VARIANTS)


def test_what_matters_most_comes_first() -> None:
    small, large = Shape(1, 32), Shape(4, 1024)
    found = list(rounds([small, large]))
    assert found[0] == (FORWARD, True, small)
    assert [task for task, _, _ in found] == [FORWARD] * 4 + [GENERATION] * 4
    assert len(set(found)) == 8
