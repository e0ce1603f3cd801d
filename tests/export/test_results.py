"""Exported folders give what the compiled model does: flavours, heads, models, padding, states, sizes.

An activation that lies on the tie between two codes may be rounded the other way in onnxruntime, and later layers
amplify it: of several calls most must agree to float32, and all to what such a code makes.
"""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch
from torch import Tensor

from starquant_fx import runtime
from starquant_fx.export.build import HEADS, Form, reference_of
from starquant_fx.lowering.onnx.flavours import FLAVOURS
from tests.export.small import BARE, CASES, Exports, arrays, built, call, compiled, errors_of
from tests.small_models import SHORT

EXACT, FLIPPED, REQUANTIZED = 1e-4, 0.1, 0.3
RECIPE = {"odd": "star-w8a8", "dream": "rtn-w8a8", "bert": "rtn-w8a8", BARE: "star-w8a8"}
CHOSEN: list[tuple[object, ...]] = [
    ("odd", "qdq", "logits", False),
    ("odd", "integer", "row-logits", True),
    ("dream" + SHORT, "integer", "tokens", True),
    (BARE + SHORT, "integer", "tokens", False),
]
"""Those that are not slow."""


def agree(errors: list[float]) -> bool:
    """See the top."""
    return statistics.median(errors) <= EXACT and max(errors) <= FLIPPED


def marked(chosen: list[tuple[object, ...]], *properties: object) -> list[object]:
    """All combinations; those that are not chosen are slow."""
    every = itertools.product(*properties)  # type: ignore[call-overload]
    return [c if c in chosen else pytest.param(*c, marks=pytest.mark.slow) for c in every]


@pytest.mark.parametrize(
    ("kind", "flavour", "head", "masked"),
    [
        *(one for one in CHOSEN if one[0] not in RECIPE),
        *marked(CHOSEN, RECIPE, ("qdq", "integer"), HEADS, (False, True)),
    ],
)
def test_codes_are_computed_as_by_the_reference_target(
    exports: Exports, kind: str, flavour: str, head: str, masked: bool
) -> None:
    recipe = RECIPE[kind.removesuffix(SHORT)]
    report = exports(kind, recipe, flavour=flavour, head=head, attention_mask=masked)
    wanted = compiled(kind, recipe)
    for strict in (False, True):
        assert agree(errors_of(report.folder, wanted, kind, masked, strict))


@pytest.mark.parametrize(
    ("kind", "head", "masked"),
    marked(
        [("odd", "tokens", False)],
        ("odd", "dream", "bert"),
        HEADS,
        (False, True),
    ),
)
def test_nbits_is_the_model_with_activations_of_16_bits(
    exports: Exports, kind: str, head: str, masked: bool
) -> None:
    report = exports(kind, "rtn-w4a4", flavour="nbits", head=head, attention_mask=masked)
    wanted = compiled(kind, "rtn-w4a16")
    assert max(errors_of(report.folder, wanted, kind, masked, strict=True)) <= EXACT
    assert max(errors_of(report.folder, wanted, kind, masked, strict=False)) <= REQUANTIZED


@pytest.mark.parametrize(
    ("flavour", "recipe"),
    marked(
        [("qdq", "rtn-w4a16"), ("qdq", "rtn-w8a8[role:head=w4a8]")],
        FLAVOURS,
        ("rtn-w4a16", "star-w4a4", "rtn-w8a8[role:head=w4a8]"),
    ),
)
def test_other_bits(exports: Exports, flavour: str, recipe: str) -> None:
    report = exports("odd", recipe, flavour=flavour, verify=True)
    found = report.verification
    assert found is not None
    errors = [c.error for c in found.comparisons if c.options == "strict"]
    assert agree(errors)
    assert len(found.linears) == 7 + ("head" in recipe)


def test_activations_of_16_bits_are_right_under_default_options_too(exports: Exports) -> None:
    found = exports("odd", "rtn-w4a16", flavour="qdq", verify=True).verification
    assert found is not None
    assert found.error("default") < EXACT


@pytest.mark.parametrize("opset", [pytest.param(22, marks=pytest.mark.slow), 23])
def test_opsets(exports: Exports, opset: int) -> None:
    report = exports("odd", flavour="integer", opset=opset)
    wanted = compiled("odd")
    assert report.opset == opset
    assert runtime.load(report.folder).metadata.opset == opset
    assert agree(errors_of(report.folder, wanted, "odd", masked=False, strict=False))


@pytest.mark.usefixtures("built_once")
def test_a_bfloat16_model_is_exported_in_float32(exports: Exports) -> None:
    kind = "odd-bf16"
    one = compiled(kind)
    assert one.program.tensors()["model.transformer.wte.weight"].dtype == torch.bfloat16
    module = reference_of(built(one, Form("integer")), one.tensors())
    loaded = runtime.load(exports(kind, flavour="integer").folder)
    errors = []
    for seed, (shape, share) in enumerate(CASES):
        arguments, _ = call(kind, shape, share, False, seed)
        with torch.no_grad():
            wanted: Tensor = module(*arguments.values())
            low: Tensor = one(**arguments).logits
        assert wanted.dtype == torch.float32
        got = torch.from_numpy(loaded(**arrays(arguments)))
        errors.append(float((got - wanted).abs().max() / wanted.abs().max()))
        assert float((got - low).abs().max() / low.abs().max()) < 0.1
    assert agree(errors)
