"""Answers to questions about a stage's graph, as plain data; ``terminal`` renders them."""

from starquant_fx.inspection.boundaries import Crossing, Edge, boundaries
from starquant_fx.inspection.critical_path import CriticalPath, Step, critical_path
from starquant_fx.inspection.high_precision import FloatGroup, HighPrecision, high_precision
from starquant_fx.inspection.precision_path import CAVEAT, Loss, PrecisionPath, precision_path

__all__ = [
    "CAVEAT",
    "CriticalPath",
    "Crossing",
    "Edge",
    "FloatGroup",
    "HighPrecision",
    "Loss",
    "PrecisionPath",
    "Step",
    "boundaries",
    "critical_path",
    "high_precision",
    "precision_path",
]
