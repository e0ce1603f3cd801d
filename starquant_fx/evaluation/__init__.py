"""What quantization costs: NELBO, agreement and divergence on held-out text, with intervals."""

from starquant_fx.evaluation.agreement import Agreement, agreement
from starquant_fx.evaluation.alignment import logits_at
from starquant_fx.evaluation.comparison import Comparison, Measurement, compare
from starquant_fx.evaluation.corpus import calibration_texts, read_corpus, read_texts
from starquant_fx.evaluation.gate import Gate, gate, rank_correlation
from starquant_fx.evaluation.gate_sheets import gate_sheet, rank_sheet
from starquant_fx.evaluation.intervals import Interval, mean_interval
from starquant_fx.evaluation.masks import MaskPlan, mask_plan
from starquant_fx.evaluation.nelbo import nelbo
from starquant_fx.evaluation.sheets import (
    Cost,
    masked_sheet,
    spread_sheet,
    summary_sheet,
    trajectory_sheet,
)
from starquant_fx.evaluation.table import Sheet
from starquant_fx.evaluation.text import excerpt, segments
from starquant_fx.evaluation.trajectory import Trajectory, trajectories

__all__ = [
    "Agreement",
    "Comparison",
    "Cost",
    "Gate",
    "Interval",
    "MaskPlan",
    "Measurement",
    "Sheet",
    "Trajectory",
    "agreement",
    "calibration_texts",
    "compare",
    "excerpt",
    "gate",
    "gate_sheet",
    "logits_at",
    "mask_plan",
    "masked_sheet",
    "mean_interval",
    "nelbo",
    "rank_correlation",
    "rank_sheet",
    "read_corpus",
    "read_texts",
    "segments",
    "spread_sheet",
    "summary_sheet",
    "trajectories",
    "trajectory_sheet",
]
