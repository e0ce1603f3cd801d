from __future__ import annotations

import pytest
import torch
from torch import Tensor

from starquant_fx.errors import PassError, RecipeError
from starquant_fx.operators import op
from starquant_fx.passes import InsertSgat
from starquant_fx.program import Program
from tests.small_models import masked_ids
from tests.small_programs import (
    continued,
    logits,
    relative,
    rewritten,
    site_of,
    until,
    values,
)

STRUCTURES = ("dense", "kronecker", "block", "hadamard")
BEFORE = until("estimate-means")


def factors(program: Program, role: str) -> list[Tensor]:
    rotate = program.site_node(site_of(program, role), "rotate")
    return [program.tensor(n) for n in rotate.args[1]]  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_a_basis_without_gates_changes_nothing(kind: str, structure: str) -> None:
    program = rewritten(kind, BEFORE)
    after = continued(program, InsertSgat(structure=structure))
    ids = masked_ids(kind, (3, 10), 0.5)
    got, expected = logits(after.module, ids), logits(program.module, ids)
    assert relative(got, expected) < 1e-5
    assert not torch.equal(got, expected)
    assert not after.nodes(op("gate"))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_site_gets_a_basis_and_every_weight_the_same_one(structure: str) -> None:
    after = continued(rewritten("dream", BEFORE), InsertSgat(structure=structure, rank=8))
    for site in after.quantized_sites():
        rotate, gate = after.site_node(site, "rotate"), after.site_node(site, "gate")
        assert gate.args[0] is rotate
        weights = after.site_nodes(site, "rotate_weight")
        assert len(weights) == len(site.linears)
        assert all(w.args[1:] == rotate.args[1:] for w in weights)
        for linear, weight in zip(after.site_nodes(site, "linear"), weights, strict=True):
            assert linear.args[:2] == (gate, weight)


def test_gates_keep_the_coordinates_of_the_state_and_zero_the_other_ones() -> None:
    after = continued(rewritten("odd", BEFORE), InsertSgat(structure="dense", rank=5))
    site = site_of(after, "gate")
    nodes = [after.site_node(site, p) for p in ("states", "rotate", "gate")]
    states, x, gated = values(after.module, nodes, masked_ids("odd", (3, 10), 0.5))
    shared = site.features - 10
    assert torch.equal(gated[:, :shared], x[:, :shared])
    masked, unmasked = slice(shared, shared + 5), slice(shared + 5, None)
    for state, own, other in ((1, masked, unmasked), (0, unmasked, masked)):
        rows = states == state
        assert torch.equal(gated[rows][:, own], x[rows][:, own])
        assert not bool(torch.count_nonzero(gated[rows][:, other]))
        assert bool((x[rows][:, other] != 0).all())


def test_rank_is_rounded_up_to_whole_slices() -> None:
    after = continued(rewritten("odd", BEFORE), InsertSgat(size=10, rank=5))
    site = site_of(after, "q")
    assert after.site_node(site, "gate").args[2] == 36 - 2 * 8  # 36 = 9 x 4
    assert after.findings[site.name] == {"transform": "kronecker 9x4", "gates": 8}


def test_a_slice_that_would_take_too_much_is_not_gated_and_that_is_said() -> None:
    after = continued(rewritten("odd", BEFORE), InsertSgat(size=10, rank=5))
    site = site_of(after, "down")  # 75 = 5 x 15
    assert not after.site_nodes(site, "gate")
    assert after.findings[site.name]["gates"] == 0
    assert after.findings["notes"][site.name].endswith("no gates, one slice is 15 of 75")
    wanted = continued(rewritten("odd", BEFORE), InsertSgat(size=10, rank=15))
    assert wanted.site_node(site, "gate").args[2] == 75 - 2 * 15


def test_gates_can_be_kept_to_some_roles() -> None:
    after = continued(
        rewritten("odd", BEFORE), InsertSgat(structure="dense", rank=2, gated="o+down")
    )
    gated = {s.roles for s in after.quantized_sites() if after.site_nodes(s, "gate")}
    assert gated == {("o",), ("down",)}
    assert len(after.nodes(op("rotate"))) == 4 + 7


def test_gates_for_unknown_roles_are_refused() -> None:
    with pytest.raises(PassError, match="insert-sgat: unknown role") as caught:
        continued(rewritten("odd", BEFORE), InsertSgat(rank=2, gated="o+donw"))
    assert "donw" in str(caught.value)


def test_starts_depend_on_seed_and_site_only() -> None:
    program = rewritten("odd", BEFORE)
    first, again, other = (
        continued(program, InsertSgat(start="gaussian", seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(factors(first, "q")[0], factors(again, "q")[0])
    assert not torch.equal(factors(first, "q")[0], factors(other, "q")[0])
    assert not torch.equal(factors(first, "q")[0], factors(first, "o")[0])


@pytest.mark.parametrize("start", ["gaussian", "hadamard"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_bases_are_orthogonal(structure: str, start: str) -> None:
    after = continued(rewritten("odd", BEFORE), InsertSgat(structure=structure, start=start))
    for factor in factors(after, "down"):
        if factor.dim() > 1:
            square = factor.mT @ factor
            torch.testing.assert_close(square, torch.eye(square.shape[-1]).expand_as(square))
        else:
            assert torch.equal(factor.abs(), torch.ones(75))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 18}, "leave no shared coordinates"),
        ({"rank": -1}, "out of range"),
        ({"size": -2}, "out of range"),
        ({"structure": "fourier"}, "unknown structure"),
        ({"start": "zeros"}, "unknown start"),
    ],
)
def test_bases_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    program = rewritten("odd", BEFORE)
    with pytest.raises((RecipeError, PassError), match=message):
        continued(program, InsertSgat.with_options(options))
