"""The benchmark of exported models: its variants, ratios, summary, goals and tables."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from cpu_suite.specs import MODELS, Place
from onnx_suite import gaps, reports
from onnx_suite.measuring import OnnxRun
from onnx_suite.rows import OnnxRow
from onnx_suite.summaries import FLOAT_HEAD, INTEGER, STAR, TINY, goals, summary
from onnx_suite.tables import COLUMNS, line, tables
from onnx_suite.variants import (
    ANCHORS,
    COMPILED,
    DYNAMIC,
    EXPORTS,
    FULL,
    QUICK,
    chosen,
    folder,
    jobs,
    measured,
    sessions,
)
from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.recipes import get_recipe

SPEC = MODELS["2x128"]


def row(variant: str, seconds: float | None = 0.1, model: str = "12x1024", **more: Any) -> OnnxRow:
    times = [] if seconds is None else [seconds]
    return OnnxRow(model, "1x512", 1, variant, "ours", 512, 1, times, **more)


def test_every_variant_is_made_by_a_preparation_and_stars_have_a_counterpart() -> None:
    for exports in (tuple(EXPORTS.values()), *QUICK.values()):
        made = {job.name for job in jobs(exports)}
        found = sessions(exports)
        names = [v.name for v in found]
        assert len(set(names)) == len(names)
        assert {v.job for v in found} == made
        for one in exports:
            get_recipe(one.recipe)
    full = sessions(tuple(EXPORTS.values()))
    for variant in full:
        assert bool(variant.plain) == variant.name.startswith("star")
        assert not variant.plain or variant.plain in {v.name for v in full}
    for variant, after in itertools.pairwise(full):  # a pair fits into one group
        assert not variant.name.startswith("rtn") or variant.name in (after.plain, FLOAT_HEAD)
    assert {INTEGER, FLOAT_HEAD, STAR, FULL, DYNAMIC} <= {v.name for v in full}
    assert {v.name for v in measured(tuple(EXPORTS.values()), True)} >= set(ANCHORS)


def test_exports_are_chosen_by_name() -> None:
    assert [e.label for e in chosen("star-w4a4,rtn-w8a8", SPEC, False)] == ["star-w4a4", "rtn-w8a8"]
    assert chosen(None, SPEC, True) == QUICK["12x1024"]
    with pytest.raises(InputError, match="rtn-w8a9"):
        chosen("rtn-w8a9", SPEC, False)


def test_rows_are_compared_within_their_rounds(tmp_path: Path) -> None:
    run = OnnxRun(Place(tmp_path, SPEC, 1), "both", 1, 1.0, print)
    run.plain = {STAR: FLOAT_HEAD}
    star, fp32 = row(STAR, 0.4), row(FULL, 1.0)
    medians = {FULL: 1.0, DYNAMIC: 0.2, FLOAT_HEAD: 0.25, STAR: 0.4, COMPILED: 0.6}
    for one in (star, fp32):
        run.relate(one, medians)
    assert star.vs_fp32 == pytest.approx(2.5)
    assert star.vs_dynamic == pytest.approx(0.5)
    assert star.star_adds == pytest.approx(0.15)
    assert star.ratio == pytest.approx(1.5)
    assert fp32.vs_fp32 == 1
    assert fp32.star_adds is None
    found = star.to_dict()
    assert (found["vs_fp32"], found["median"]) == (pytest.approx(2.5), 0.4)
    star.reason = "it broke"
    assert star.vs_fp32 is star.star_adds is None


def test_the_summary_is_of_the_random_model_and_of_the_largest_error() -> None:
    fast: dict[str, Any] = {"fp32_seconds": 0.3, "dynamic_seconds": 0.08}
    rows = [
        row(INTEGER, 0.1, TINY, **fast, max_rel_error=0.02, block_linears=42, float_fallbacks=0),
        row("rtn-w8a8, qdq", None, TINY, max_rel_error=0.03, block_linears=42, float_fallbacks=42),
        row(INTEGER, 0.1, fp32_seconds=0.25, dynamic_seconds=0.11),
        row(INTEGER, 0.05, fp32_seconds=0.2, dynamic_seconds=0.1, masked=True),
        row(STAR, 0.2, **fast, block_linears=84, float_fallbacks=3),
    ]
    found = summary(rows)
    assert all(value is None or math.isfinite(value) for value in found.values())
    assert found["integer_vs_fp32"] == pytest.approx(2.5)
    assert found["integer_vs_quantize_dynamic"] == pytest.approx(1.1)
    assert found["masked_integer_vs_fp32"] == pytest.approx(4)
    assert found["integer_float_head_vs_fp32"] is None
    assert (found["float_fallbacks"], found["block_linears"]) == (3, 84)
    assert found["max_rel_error"] == 0.03
    assert found["failed"] == 0


def test_a_summary_hides_no_failure() -> None:
    right = row(INTEGER, 0.1, max_rel_error=0.02, block_linears=84, float_fallbacks=0)
    failed = row("star-w8a8, integer", None, reason="no memory")
    for rows in ([right, failed], [right, row("rtn-w8a8, qdq", max_rel_error=math.inf)]):
        assert summary(rows)["max_rel_error"] is None
    found = summary([right, failed])
    assert (found["failed"], found["float_fallbacks"]) == (1, None)
    assert summary([right, row("rtn-w8a8, nbits", None, reason="no")])["max_rel_error"] == 0.02


def test_an_empty_summary_says_that_nothing_was_measured() -> None:
    assert set(summary([]).values()) == {None, 0}
    assert summary([])["failed"] == 0
    assert {goal["measured"] for goal in goals([])} == {None}


def test_the_accuracy_goal_is_a_share_of_gaps() -> None:
    rows = [row(STAR, 0.1, TINY, gap=-0.001), row(DYNAMIC, 0.1, TINY, gap=0.004)]
    assert goals(rows)[-1]["measured"] == pytest.approx(0.25)


def test_a_failed_variant_is_a_line_with_the_reason() -> None:
    failed = line(row(DYNAMIC, 0.1, reason="no memory"))
    assert "not measured: no memory" in failed
    whole = line(row(INTEGER, 0.1, gap=0.001, gap_low=0.0, gap_high=0.002, disk_bytes=10**7))
    assert "1.00 [0.00, 2.00]" in whole
    assert {text.count("|") for text in (failed, whole)} == {len(COLUMNS) + 2}
    text = tables([row(INTEGER, note="NELBO: no text"), row(INTEGER, masked=True)])
    assert text.count("###") == 2
    assert "logits of the masked tokens" in text
    assert f"- {INTEGER}: NELBO: no text" in text


def test_a_report_holds_the_reason_of_a_failure(tmp_path: Path) -> None:
    place = Place(tmp_path, SPEC, 1)
    name = folder("rtn-w8a8 int8 head", "qdq")
    assert " " not in name
    with reports.failed(reports.report_file(place, name)) as found:
        found["max_rel_error"] = 0.1
        raise StarQuantError("it cannot be written")
    assert "cannot be written" in reports.read(place, name)["reason"]
    assert reports.read(place, "another") == {}
    assert reports.disk_bytes(tmp_path / "nowhere") is None


def test_gaps_are_paired_by_segment(tmp_path: Path) -> None:
    place = Place(tmp_path, SPEC, 1)
    assert gaps.gap(place, INTEGER) is None
    for name, values in ((gaps.REFERENCE, [1.0, 3.0, 5.0]), (INTEGER, [1.5, 3.5, 5.5])):
        gaps._file(place, name).write_text(str(values))
    found = gaps.gap(place, INTEGER)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
