from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from starquant_fx.calibration.activations import FULL_PRECISION_STAGE
from starquant_fx.calibration.tac import CHOSEN, TacOptions, estimate
from starquant_fx.calibration.tac_run import TRANSFORMED_STAGE
from starquant_fx.errors import PassError
from starquant_fx.operators import op
from starquant_fx.passes import InsertTac, InsertTokenState
from starquant_fx.program import Program, facts
from starquant_fx.recipes import get_recipe
from tests.small_programs import continued, rewritten, until, values

BEFORE = until("fold-sgat")
EXACT = InsertTac(damping=0.0, eps=1e-9, smooth=0.0, shrink=0.0, estimator="ridge")


def source(program: Program, stage: str | None, site: str, off: bool) -> Tensor:
    """What a site reads over the first calibration batch [N, d]."""
    module = program.module if stage is None else program.stages[stage]
    node = next(n for n in module.graph.nodes if facts(n).get("feeds") == site)
    assert program.calibration is not None
    (x,) = values(module, [node], program.calibration.batches[0], quantizers_off=off)
    flat: Tensor = x.flatten(0, -2)
    return flat


@pytest.mark.parametrize("kind", ["odd", "bert"])
def test_one_correction_before_each_output_projection(kind: str) -> None:
    program = rewritten(kind, BEFORE)
    after = continued(program, InsertTac())
    sites = [s for s in after.quantized_sites() if "o" in s.roles]
    assert len(after.nodes(op("compensate"))) == len(sites) == (1 if kind == "odd" else 2)
    for site in sites:
        tac = after.site_node(site, "tac")
        assert after.site_node(site, "center").args[0] is tac
        assert tac.args[0] is after.site_node(site, "tokens")


def test_without_centring_and_basis_it_stands_before_the_quantizer() -> None:
    after = continued(rewritten("odd", until("fold-sgat", "rtn-w4a4"), "rtn-w4a4"), InsertTac())
    (tac,) = after.nodes(op("compensate"))
    assert [u.target for u in tac.users] == [op("quantize_activation")]


@pytest.mark.parametrize("estimator", ["covariance", "ridge"])
@pytest.mark.parametrize(
    ("reference", "stage", "off"),
    [("transformed", TRANSFORMED_STAGE, True), ("original", FULL_PRECISION_STAGE, False)],
)
def test_corrections_are_estimated_with_the_earlier_ones_active(
    estimator: str, reference: str, stage: str, off: bool
) -> None:
    program = rewritten("bert", BEFORE)
    after = continued(program, InsertTac(estimator=estimator, reference=reference))
    options = TacOptions(estimator=estimator)
    sites = [s for s in after.quantized_sites() if "o" in s.roles]
    for site in sites:
        full = source(after, stage, site.name, off)
        quantized = source(after, None, site.name, False)
        matrix, bias = estimate(full, quantized, 16, options)
        nodes = after.site_node(site, "tac").args[1:]
        torch.testing.assert_close(after.tensor(nodes[0]), matrix, atol=1e-4, rtol=1e-3)  # type: ignore[arg-type]
        torch.testing.assert_close(after.tensor(nodes[1]), bias, atol=1e-4, rtol=1e-3)  # type: ignore[arg-type]
    # The second site's input depends on the first correction.
    moved = source(program, None, sites[1].name, False) - source(after, None, sites[1].name, False)
    assert float(moved.abs().max()) > 1e-3


@pytest.mark.parametrize("reference", ["transformed", "original"])
def test_a_least_squares_correction_never_moves_away_from_its_reference(reference: str) -> None:
    one = dataclasses.replace(EXACT, reference=reference)
    after = continued(rewritten("odd", BEFORE), one)
    site = next(s for s in after.quantized_sites() if "o" in s.roles)
    found = after.findings[site.name]
    assert set(found) >= {
        f"tac_{w}_{r}" for w in ("before", "after") for r in ("transformed", "original")
    }
    assert 0 < found[f"tac_after_{reference}"] < found[f"tac_before_{reference}"]


def test_distances_are_reported_as_they_are() -> None:
    after = continued(rewritten("odd", BEFORE), InsertTac())
    site = next(s for s in after.quantized_sites() if "o" in s.roles)
    full = source(after, FULL_PRECISION_STAGE, site.name, False)
    quantized = source(after, None, site.name, False)
    found = after.findings[site.name]["tac_before_original"]
    expected = float((quantized - full).pow(2).sum() / full.pow(2).sum())
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_number_of_samples_is_an_upper_bound() -> None:
    program = rewritten("odd", BEFORE)
    few, same = (continued(program, InsertTac(samples=n)).tensors() for n in (2, 8))
    more = continued(program, InsertTac(samples=100)).tensors()
    (name,) = [n for n in more if n.endswith("tac_matrix")]
    assert torch.equal(same[name], more[name])
    assert not torch.equal(few[name], more[name])


def test_blocks_divide_the_width() -> None:
    program = rewritten("odd", BEFORE)
    for wanted, block in ((16, 12), (12, 12), (5, 4), (1, 1), (1000, 36)):
        after = continued(program, InsertTac(block=wanted))
        (name,) = [n for n in after.tensors() if n.endswith("tac_matrix")]
        assert after.tensors()[name].shape == (36 // block, block, block)


def test_a_model_without_a_quantized_output_projection_is_refused() -> None:
    recipe = dataclasses.replace(get_recipe("rtn-w4a4"), ignore=("role:head", "role:o"))
    program = rewritten("odd", until("fold-sgat", "rtn-w4a4"), recipe)
    with pytest.raises(PassError, match="insert-tac: no quantized output projection"):
        continued(program, InsertTac())


def test_an_unknown_reference_and_missing_data_are_refused() -> None:
    program = rewritten("odd", until("fold-sgat", "rtn-w4a4"), "rtn-w4a4", calibrated=False)
    with pytest.raises(PassError, match="unknown reference"):
        continued(program, InsertTac(reference="teacher"))
    with pytest.raises(PassError, match="insert-tac: there is nothing to calibrate with"):
        continued(program, InsertTac())


@pytest.mark.parametrize(
    ("per", "index"), [("state", [0, 1, 0, 1]), ("ratio", [0, 0, 1, 1]), ("both", [0, 1, 2, 3])]
)
def test_groups_of_states_get_maps_of_their_own(per: str, index: list[int]) -> None:
    passes = tuple(
        InsertTokenState(edges=(0.5,)) if p.name == "insert-token-state" else p for p in BEFORE
    )
    after = continued(rewritten("odd", passes), InsertTac(per=per, block=4))
    site = next(s for s in after.quantized_sites() if "o" in s.roles)
    tac = after.site_node(site, "tac")
    assert tac.target == op("compensate_by_state")
    assert tac.args[2] == index
    matrix, bias = (after.tensor(n) for n in tac.args[3:])  # type: ignore[arg-type]
    assert matrix.shape == (max(index) + 1, 9, 4, 4)
    assert bias.shape == (max(index) + 1, 36)
    full = source(after, TRANSFORMED_STAGE, site.name, off=True)
    nodes = [after.site_node(site, "order"), after.site_node(site, "states"), tac.args[0]]
    assert after.calibration is not None
    order, states, quantized = values(after.module, nodes, after.calibration.batches[0])  # type: ignore[arg-type]
    group = torch.tensor(index)[states]
    for i in set(index):
        rows = group == i
        if int(rows.sum()) >= 16 * 4:
            expected = estimate(full[order][rows], quantized[rows], 4, TacOptions())
        else:
            expected = estimate(full[order], quantized, 4, TacOptions())
        torch.testing.assert_close(matrix[i], expected[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(bias[i], expected[1], atol=1e-4, rtol=1e-4)


def test_maps_by_state_need_a_partition() -> None:
    program = rewritten("odd", until("fold-sgat", "rtn-w4a4"), "rtn-w4a4")
    with pytest.raises(PassError, match="maps by token state"):
        continued(program, InsertTac(per="state"))


def test_chosen_constants_are_reported() -> None:
    after = continued(rewritten("bert", BEFORE), InsertTac(tune=True))
    for site in after.quantized_sites():
        if "o" in site.roles:
            assert {f"tac_{name}" for name in CHOSEN} < set(after.findings[site.name])
