"""What was measured, as values that JSON can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from starquant_fx.evaluation.agreement import FIELDS
from starquant_fx.evaluation.comparison import Comparison
from starquant_fx.evaluation.gate import Gate
from starquant_fx.evaluation.intervals import Interval, mean_interval
from starquant_fx.evaluation.sheets import Cost, spread
from starquant_fx.evaluation.trajectory import Trajectory

Values = dict[str, Any]


def comparison_record(comparison: Comparison, costs: Mapping[str, Cost]) -> Values:
    """One seed's measurements: intervals of NELBO, gap and every figure on masked tokens, and costs."""
    models: Values = {}
    for name, measured in comparison.measurements.items():
        cost = costs.get(name)
        models[name] = {
            "nelbo": _interval(comparison.nelbo(name)),
            "gap": _interval(comparison.gap(name)),
            "masked": [
                {
                    "ratio": ratio,
                    **{f: _interval(comparison.by_ratio(name, f)[which]) for f in FIELDS},
                }
                for which, ratio in enumerate(comparison.plan.ratios)
            ],
            "weights_mb": cost.weights_mb if cost else None,
            "compile_seconds": cost.compile_seconds if cost else None,
            "run_seconds": measured.seconds,
        }
    draws, count, length = comparison.plan.likelihood.shape
    return {
        "seed": comparison.plan.seed,
        "segments": count,
        "length": length,
        "draws": draws,
        "models": models,
    }


def gate_record(measured: Gate, costs: Mapping[str, Cost]) -> Values:
    """One seed's scores of the quick gate, and what they took."""
    draws, count, length = measured.plan.likelihood.shape
    return {
        "seed": measured.plan.seed,
        "segments": count,
        "length": length,
        "draws": draws,
        "run_seconds": sum(measured.seconds.values()),
        "models": {
            name: {
                "score": _interval(measured.score(name)),
                "gap": _interval(mean_interval(measured.gaps[name])),
                "run_seconds": measured.seconds[name],
                "weights_mb": costs[name].weights_mb,
                "compile_seconds": costs[name].compile_seconds,
            }
            for name in measured.scores
        },
    }


def trajectory_record(found: Trajectory) -> Values:
    """One model's trajectory: flips over all steps, and means over prompts by step and layer."""
    flips = found.flips
    return {
        "flips": _interval(mean_interval(flips)) if len(flips) > 1 else float(flips.mean()),
        "committed": found.committed.sum(1).tolist(),
        "positions_kept": found.positions.sum(1).tolist(),
        "tokens_kept": found.tokens.sum(1).tolist(),
        "hidden_error": _numbers(found.hidden.mean(-1)),
        "attention_error": _numbers(found.attention.mean(-1)),
        "apart": _numbers(found.apart.mean(-1)),
    }


def spread_record(records: Sequence[Values]) -> Values:
    """Mean and standard deviation over seeds of each model's NELBO, gap and flips.

    Args:
        records: What ``comparison_record`` made for each seed; models may hold ``trajectory`` records.

    Returns:
        Name -> figure -> mean, deviation (None for a single seed) and the seeds' values.
    """
    summary: Values = {}
    for name in records[0]["models"]:
        models = [record["models"][name] for record in records]
        figures = {f: [m[f]["mean"] for m in models] for f in ("nelbo", "gap")}
        if all("trajectory" in m for m in models):
            figures["flips"] = [_mean(m["trajectory"]["flips"]) for m in models]
        summary[name] = {
            figure: {
                "mean": math.fsum(values) / len(values),
                "deviation": spread(values)[1] if len(values) > 1 else None,
                "values": values,
            }
            for figure, values in figures.items()
        }
    return summary


def _interval(interval: Interval) -> Values:
    return {key: _number(value) for key, value in dataclasses.asdict(interval).items()}


def _mean(figure: Any) -> float:
    return float(figure["mean"] if isinstance(figure, dict) else figure)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(values: Tensor) -> Any:
    rows = values.tolist()
    if values.dim() == 1:
        return [_number(v) for v in rows]
    return [[_number(v) for v in row] for row in rows]
