"""The main job: on the shipped models star loses less than rtn, and SGAT alone already does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import starquant_fx
from starquant_fx.cli.evaluate import FULL, measure
from starquant_fx.evaluation.masks import mask_plan
from starquant_fx.evaluation.text import excerpt, segments
from starquant_fx.passes import FitSgat
from starquant_fx.recipe import CalibrationOptions, Recipe


def recipes(seed: int, fit: FitSgat | None, calibration: CalibrationOptions | None) -> list[Recipe]:
    chosen = [starquant_fx.get_recipe(f"{method}-w4a4") for method in ("rtn", "star", "sgat")]
    for i, one in enumerate(chosen[1:], 1):
        if fit is not None:
            one = dataclasses.replace(one.replacing(fit), method=one.method)
        if calibration is not None:
            one = dataclasses.replace(one, calibration=calibration)
        chosen[i] = one
    return [one.seeded(seed) for one in chosen]


def check(model_name: str, count: int, chosen: list[Recipe], seed: int) -> None:
    model, tokenizer = starquant_fx.from_pretrained(model_name)
    ids = segments(excerpt("test"), tokenizer, 256, count)
    plan = mask_plan(len(ids), ids.shape[1], seed=seed, draws=4)
    comparison, costs, models = measure(
        model, tokenizer, chosen, [excerpt("calibration")], ids, plan
    )
    rtn, star, sgat = (r.name for r in chosen)
    for better in (star, sgat):
        assert comparison.gap(better).mean < comparison.gap(rtn).mean
        for ours, theirs in zip(
            comparison.by_ratio(better, "kl"), comparison.by_ratio(rtn, "kl"), strict=True
        ):
            assert ours.high < theirs.low
    assert costs[star].weights_mb < costs[FULL].weights_mb
    report: Any = models[star].report
    assert [row.gates > 0 for row in report.sites] == [False, True, False, False] * 6


def test_star_beats_rtn_after_a_short_fit() -> None:
    short = CalibrationOptions(samples=8, length=128, rollout_steps=2)
    chosen = recipes(0, FitSgat(epochs=2, batch=256, lr=1e-2), short)
    check("llada-tiny", 12, chosen, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model", ["llada-tiny", "dream-tiny"])
def test_star_beats_rtn_on_every_seed(model: str, seed: int) -> None:
    check(model, 48, recipes(seed, None, None), seed)
