"""The model in float32 as our own exporter writes it, and what onnxruntime's dynamic quantizer makes of that."""

from __future__ import annotations

import shutil

import starquant_fx
from cpu_suite.ours import LENGTH
from cpu_suite.specs import Place, Shape
from cpu_suite.weights import load, token_ids
from onnx_suite.reports import failed, report_file
from starquant_fx.export.api import export_onnx
from starquant_fx.passes import Canonicalize
from starquant_fx.recipe import CalibrationOptions, Recipe
from starquant_fx.runtime.metadata import DATA, MODEL

STATES = CalibrationOptions(samples=1, rollout_steps=0)
RECIPE = Recipe("fp32", 16, 16, (Canonicalize(),), calibration=STATES)
"""Nothing is quantized."""


def prepare(place: Place) -> None:
    """Writes both; the quantizer may fail, which is a reason of its variant alone."""
    ids = token_ids(place.spec, Shape(1, LENGTH), seed=1)  # else it would generate some, for nobody
    model = load(place, "fp32")
    compiled = starquant_fx.compile(model, RECIPE, calibration=ids, target="reference")
    source = place.folder / "fp32-onnx"
    export_onnx(compiled, source, head="row-logits", verify=False, force=True)
    with failed(report_file(place, "dynamic")):
        _quantize(place)


def _quantize(place: Place) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = (place.folder / f"{name}-onnx" for name in ("fp32", "dynamic"))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    large = (source / DATA).exists()
    quantize_dynamic(
        source / MODEL,
        target / MODEL,
        weight_type=QuantType.QInt8,
        per_channel=True,
        use_external_data_format=large,
    )
