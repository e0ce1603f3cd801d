"""``starquant-fx evaluate --quick``: the quick gate, and how it ranks recipes beside the long evaluation."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from starquant_fx.cli.measure import FULL, compiled_models, seeded
from starquant_fx.cli.subject import DRAWS, Settings, Subject, mask_plan_of, show

FORMAT, VERSION = "starquant-gate", 1
OTHER_MASKS = 1_000_003
"""Added to the seed for the long evaluation's masks, so that the two agree by merit and not by sharing masks."""


def gate_document(settings: Settings, subject: Subject) -> dict[str, Any]:
    """Scores the recipes seed by seed, and prints the tables.

    Args:
        settings: The options of ``evaluate``; with ``rank`` the long evaluation is run as well.
        subject: What is evaluated.

    Returns:
        What the JSON document holds.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": settings.model,
        "text": settings.split if settings.text is None else settings.text.name,
        "reference": FULL,
        "seeds": [_one_seed(settings, subject, seed) for seed in settings.seeds],
    }


def _one_seed(settings: Settings, subject: Subject, seed: int) -> dict[str, Any]:
    from starquant_fx.evaluation.gate import gate
    from starquant_fx.evaluation.gate_sheets import gate_sheet
    from starquant_fx.evaluation.record import gate_record

    plan = mask_plan_of(settings, subject.ids, seed)
    models, costs = compiled_models(
        subject.model,
        subject.tokenizer,
        seeded(subject.recipes, seed),
        subject.texts,
        subject.ids,
        plan,
        cache=settings.cache,
        target=settings.target,
    )
    measured = gate(models, subject.ids, plan, FULL)
    show(settings, f"seed {seed}", gate_sheet(measured, FULL))
    record = gate_record(measured, costs)
    if settings.rank:
        record["long"] = _ranked(settings, subject, models, measured)
    return record


def _ranked(
    settings: Settings, subject: Subject, models: dict[str, Any], quick: Any
) -> dict[str, Any]:
    """Runs the long evaluation and compares the two orders of the recipes."""
    from starquant_fx.evaluation.gate_sheets import rank_sheet
    from starquant_fx.evaluation.intervals import mean_interval
    from starquant_fx.evaluation.nelbo import nelbo

    draws = max(DRAWS, settings.draws or 0)
    longer = dataclasses.replace(settings, draws=draws)
    plan = mask_plan_of(longer, subject.ids, quick.plan.seed + OTHER_MASKS)
    start = time.perf_counter()
    bounds = {name: nelbo(model, subject.ids, plan, name=name) for name, model in models.items()}
    seconds = time.perf_counter() - start
    gaps = {name: mean_interval(bounds[name] - bounds[FULL]) for name in quick.scores}
    show(settings, "beside the long evaluation", rank_sheet(quick, gaps, seconds, draws))
    by_score, by_own_gap = quick.rank_correlations(gaps)
    return {
        "spearman": by_score,
        "spearman_of_own_gap": by_own_gap,
        "seconds": seconds,
        "gaps": {name: dataclasses.asdict(gap) for name, gap in gaps.items()},
    }
