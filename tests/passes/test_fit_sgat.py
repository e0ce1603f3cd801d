from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from starquant_fx.calibration.activations import (
    FULL_PRECISION_STAGE,
    full_precision_parameters,
    site_activations,
)
from starquant_fx.calibration.tac_run import TRANSFORMED_STAGE
from starquant_fx.errors import PassError
from starquant_fx.passes import (
    EstimateMeans,
    FitSgat,
    InsertCentering,
    InsertQuantizers,
    InsertSgat,
)
from tests.small_programs import continued, rewritten, site_of, until

PARTITIONED = until("insert-partition")
BEFORE = until("insert-quantizers")
SHORT = FitSgat(epochs=2, batch=64)


def test_clips_and_bases_are_learned_and_reported() -> None:
    program = rewritten("odd", BEFORE)
    after = continued(program, SHORT)
    assert set(after.stages) == {FULL_PRECISION_STAGE, TRANSFORMED_STAGE}
    assert after.stages[TRANSFORMED_STAGE] is not program.stages[TRANSFORMED_STAGE]
    for site in after.quantized_sites():
        found = after.findings[site.name]
        assert 0 < found["fit_after"] <= found["fit_before"]
        assert found["leakage"] < 1
        assert (found["leakage"] > 0) == bool(after.site_nodes(site, "gate"))
    old, new = program.tensors(), after.tensors()
    changed = {n for n in new if not torch.equal(new[n], old[n])}
    assert changed == {n for n in new if ".clip" in n or ".basis_" in n}
    for name in changed:
        if ".clip" in name:
            assert bool(((new[name] > 0) & (new[name] <= 1)).all())
        else:
            square = new[name].T @ new[name]
            assert float((square - torch.eye(square.shape[0])).abs().max()) < 1e-5


def test_fits_are_deterministic_and_depend_on_the_seed() -> None:
    program = rewritten("odd", BEFORE)
    first, again = (continued(program, SHORT).tensors() for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    other = continued(program, FitSgat(epochs=2, batch=64, seed=1)).tensors()
    assert any(not torch.equal(first[n], other[n]) for n in first if ".basis_" in n)


def test_sites_are_fitted_side_by_side_with_the_same_result() -> None:
    program = rewritten("odd", BEFORE)
    threads = torch.get_num_threads()
    try:
        fits = []
        for count in (1, 3):
            torch.set_num_threads(count)
            fits.append(continued(program, SHORT).tensors())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(t, fits[1][n]) for n, t in fits[0].items())


def test_no_epochs_keep_the_start() -> None:
    program = rewritten("odd", BEFORE)
    after = continued(program, FitSgat(epochs=0, aim=False))
    for name, tensor in after.tensors().items():
        if ".basis_" in name:
            torch.testing.assert_close(tensor, program.tensors()[name], atol=1e-6, rtol=0)


def test_a_hadamard_basis_is_not_learned() -> None:
    program = rewritten("odd", PARTITIONED)
    program = continued(program, InsertSgat(structure="hadamard", rank=6), InsertQuantizers())
    after = continued(program, SHORT)
    assert all(torch.equal(t, program.tensors()[n]) for n, t in after.tensors().items())
    assert after.findings[site_of(after, "q").name]["leakage"] > 0


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_leakage_is_what_gates_alone_cost(kind: str, centred: bool) -> None:
    program = rewritten(kind, PARTITIONED)
    if centred:
        program = continued(program, InsertCentering(), EstimateMeans())
    program = continued(program, InsertSgat(structure="dense", rank=6), InsertQuantizers(), SHORT)
    sites = 0
    for site, tokens, label in site_activations(program):
        known = {
            program.site_node(site, "tokens"): tokens,
            program.site_node(site, "states"): label,
        }
        gated = program.evaluate(program.site_node(site, "gate"), known)
        known[program.site_node(site, "dequantize")] = gated
        x = tokens
        if centred:
            x = program.evaluate(program.site_node(site, "center"), known)
        lost = power = 0.0
        parts = zip(
            program.site_nodes(site, "linear"),
            program.site_nodes(site, "rotate_weight"),
            full_precision_parameters(program, site),
            strict=True,
        )
        for node, rotated, (weight, bias) in parts:
            known[node.args[1]] = program.evaluate(rotated)  # type: ignore[index]
            lost += float((program.evaluate(node, known) - linear(x, weight, bias)).pow(2).sum())
            power += float(linear(x, weight).pow(2).sum())
        assert lost / power == pytest.approx(program.findings[site.name]["leakage"], rel=1e-3)
        sites += 1
    assert sites == len(list(program.quantized_sites()))


def test_a_fit_without_calibration_data_is_refused() -> None:
    passes = until("insert-quantizers", "sgat-w4a4")
    program = rewritten("odd", passes, "sgat-w4a4", calibrated=False)
    with pytest.raises(PassError, match="fit-sgat: there is nothing to calibrate with") as caught:
        continued(program, SHORT)
    assert "calibration data" in str(caught.value)
