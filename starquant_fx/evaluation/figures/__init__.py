"""Figures of an evaluation, for matplotlib (the extra ``figures``)."""

from starquant_fx.evaluation.figures.accuracy import Point, gap_by_bits
from starquant_fx.evaluation.figures.activations import (
    activations_by_channel,
    activations_by_layer,
)
from starquant_fx.evaluation.figures.errors import error_by_layer, error_by_step
from starquant_fx.evaluation.figures.style import check_folder, require_matplotlib, save

__all__ = [
    "Point",
    "activations_by_channel",
    "activations_by_layer",
    "check_folder",
    "error_by_layer",
    "error_by_step",
    "gap_by_bits",
    "require_matplotlib",
    "save",
]
