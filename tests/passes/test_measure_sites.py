from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from starquant_fx.calibration.activations import full_precision_parameters, site_activations
from starquant_fx.kernels import reference
from starquant_fx.passes import MeasureSites
from tests.small_programs import continued, rewritten, site_of, until


@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_errors_are_those_of_the_reference_quantizers(kind: str) -> None:
    program = rewritten(kind, until("fold-sgat", "rtn-w4a5"), "rtn-w4a5")
    after = continued(program, MeasureSites())
    for site, x, _ in site_activations(program):
        codes, scale, zero = reference.quantize_activation(x, 5, False, None)
        restored = reference.dequantize_activation(codes, scale, zero, x.dtype)
        error = power = 0.0
        for weight, bias in full_precision_parameters(program, site):
            levels, step = reference.quantize_weight(weight, 4, None)
            full = linear(x, weight, bias)
            error += float((linear(restored, levels * step[:, None], bias) - full).pow(2).sum())
            power += float(full.pow(2).sum())
        assert after.findings[site.name]["error"] == pytest.approx(error / power, rel=1e-4)


def test_centring_basis_and_bias_of_the_state_are_part_of_the_site() -> None:
    """At 8 bits without gates only rounding is left, whatever surrounds the quantizers."""
    passes = until("fold-sgat", "star-w8a8")
    plain = [p for p in passes if p.name not in ("insert-sgat", "fit-sgat")]
    after = continued(rewritten("odd", plain, "star-w8a8"), MeasureSites())
    for site in after.quantized_sites():
        assert 0 < after.findings[site.name]["error"] < 1e-3


def test_gates_are_part_of_the_error() -> None:
    after = rewritten("odd", until("measure-sites", "sgat-w8a8"), "sgat-w8a8")
    site = site_of(after, "q")
    found = after.findings[site.name]
    assert found["error"] > 0.5 * found["fit_after"] > 1e-3


def test_it_measures_nothing_without_calibration_data() -> None:
    passes = until("measure-sites", "rtn-w4a4")
    program = rewritten("odd", passes, "rtn-w4a4", calibrated=False)
    assert program.findings == {}


def test_activations_are_collected_once() -> None:
    program = rewritten("odd", until("fold-sgat", "rtn-w4a4"), "rtn-w4a4")
    first = {s.name: x for s, x, _ in site_activations(program)}
    second = {s.name: x for s, x, _ in site_activations(program)}
    assert all(first[n].data_ptr() == second[n].data_ptr() for n in first)
    assert {x.shape[0] for x in first.values()} == {8 * 16 + 3 * 9}
    assert all(bool(torch.isfinite(x).all()) for x in first.values())
