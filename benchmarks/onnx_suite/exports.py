"""Our exports: a model compiled with a recipe once, written in several flavours, and verified."""

from __future__ import annotations

from typing import Any

import starquant_fx
from cpu_suite.ours import LENGTH, SEQUENCES, short
from cpu_suite.specs import Place, Shape
from cpu_suite.weights import load, token_ids
from onnx_suite.reports import BLOCK, export_folder, failed, report_file
from onnx_suite.variants import CHECKED, Export, folder
from starquant_fx.compiled import CompiledModel
from starquant_fx.evaluation import excerpt
from starquant_fx.export.api import export_onnx
from starquant_fx.export.kernels import UNKNOWN
from starquant_fx.export.verify import OPTIONS, Verification


def prepare(place: Place, what: Export) -> None:
    """Writes all flavours; one that fails is a reason of its own variant."""
    compiled = compiled_model(place, what)
    for flavour in what.flavours:
        name = folder(what.label, flavour)
        with failed(report_file(place, name)) as found:
            written = export_onnx(
                compiled,
                export_folder(place, name),
                flavour=flavour,
                head="row-logits",
                verify=what.checked and flavour in CHECKED,
                force=True,
            )
            found["export_seconds"] = written.seconds
            if written.verification is not None:
                found |= verified(written.verification)


def compiled_model(place: Place, what: Export) -> CompiledModel:
    """The float32 model, compiled: as shipped with its recipe and calibration, a random one cut short."""
    model = load(place, "fp32")
    recipe = short(what.recipe) if what.short or not place.spec.shipped else what.recipe
    if place.spec.shipped:
        _, tokenizer = starquant_fx.from_pretrained(place.spec.name)
        return starquant_fx.compile(
            model,
            recipe,
            calibration=[excerpt("calibration")],
            tokenizer=tokenizer,
            target="reference",
        )
    ids = token_ids(place.spec, Shape(SEQUENCES, LENGTH), seed=1)
    return starquant_fx.compile(model, recipe, calibration=ids, target="reference")


def verified(found: Verification) -> dict[str, Any]:
    """What a verification says: errors under both sets of session options, and how the blocks' linears run."""
    linears = [linear for linear in found.linears if BLOCK.search(linear.name)]
    known = not any(linear.kernel == UNKNOWN for linear in linears)
    return {
        **{f"max_rel_error_{name}": found.error(name) for name in OPTIONS},
        "max_rel_error": found.error(),
        "agreement": found.agreement,
        "kernels": {linear.name: linear.kernel for linear in found.linears},
        "block_linears": len(linears),
        "float_fallbacks": sum(not linear.packed for linear in linears) if known else None,
    }
