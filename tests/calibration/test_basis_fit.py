from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from starquant_fx.basis import BasisShape, start_factors
from starquant_fx.calibration.basis_fit import (
    FitOptions,
    FittedSite,
    SiteProblem,
    aim_gates,
    fit_site,
    leakage,
)
from starquant_fx.devices import Draws
from starquant_fx.kernels import reference
from starquant_fx.recipe import SiteRecipe

WIDTH = 24
OPTIONS = FitOptions(epochs=6, batch=64, lr=2e-2, seed=0)


def problem(
    structure: str = "dense", rank: int = 2, size: int = 0, clip: bool = True
) -> SiteProblem:
    """Tokens with outlier channels; each state has two strong directions that the other lacks."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (400,), generator=generator)
    tokens = 0.3 * torch.randn(400, WIDTH, generator=generator)
    tokens[:, 5] *= 20
    directions = torch.linalg.qr(torch.randn(WIDTH, 4, generator=generator))[0].T.view(2, 2, WIDTH)
    strength = 3 * torch.randn(400, 2, generator=generator)
    tokens += torch.einsum("tk,tkd->td", strength, directions[label])
    shape = BasisShape.choose(structure, WIDTH, size, rank)
    gates = reference.gate_table(WIDTH, shape.shared, shape.bounds(2)).float()
    weight = torch.randn(10, WIDTH, generator=generator)
    return SiteProblem(tokens, label, weight, shape, gates, SiteRecipe(4, 4), clip)


def starts(one: SiteProblem, seed: int = 1) -> list[Tensor]:
    return start_factors(one.shape, Draws(seed), "gaussian")


def error(one: SiteProblem, fitted: FittedSite) -> float:
    """The relative output error, from the kernels instead of the fit's own arithmetic."""
    x = reference.rotate(one.tokens, fitted.factors, one.shape.structure) * one.gates[one.label]
    codes, scale, zero = reference.quantize_activation(x, 4, False, fitted.clip)
    w = reference.rotate(one.weight, fitted.factors, one.shape.structure)
    levels, step = reference.quantize_weight(w, 4, fitted.clip_weight)
    y = (
        reference.dequantize_activation(codes, scale, zero, torch.float32)
        @ (levels * step[:, None]).T
    )
    full = one.tokens @ one.weight.T
    return float((y - full).pow(2).sum() / full.pow(2).sum())


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("structure", ["dense", "kronecker", "block", "hadamard"])
def test_a_fit_is_better_than_its_start_and_orthogonal(structure: str, clip: bool) -> None:
    one = problem(structure, size=6, clip=clip)
    fitted = fit_site(one, starts(one), OPTIONS)
    assert fitted.after <= fitted.before
    if structure != "hadamard":
        assert fitted.after < 0.95 * fitted.before
    assert error(one, fitted) == pytest.approx(fitted.after, rel=0.02)
    for factor in fitted.factors:
        if factor.dim() > 1:
            square = factor.mT @ factor
            assert float((square - torch.eye(square.shape[-1])).abs().max()) < 1e-5
    assert bool(((fitted.clip > 0) & (fitted.clip <= 1)).all())
    if not clip:
        assert torch.equal(fitted.clip, torch.ones(2))
        assert torch.equal(fitted.clip_weight, torch.ones(10))


def test_a_fit_that_diverges_returns_its_start() -> None:
    one = problem()
    start = starts(one)
    fitted = fit_site(one, start, dataclasses.replace(OPTIONS, lr=50.0, epochs=1))
    assert fitted.after == fitted.before
    assert all(torch.equal(a, b) for a, b in zip(fitted.factors, start, strict=True))


def test_the_start_is_not_written_into_and_fits_repeat() -> None:
    one = problem()
    start = starts(one)
    kept = [f.clone() for f in start]
    first, again = (fit_site(one, start, OPTIONS) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(start, kept, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.factors, again.factors, strict=True))
    assert first.after == again.after
    other = fit_site(one, start, dataclasses.replace(OPTIONS, seed=1))
    assert not torch.equal(first.factors[0], other.factors[0])


def test_leakage_is_the_output_lost_at_the_gates() -> None:
    one = problem(rank=3)
    factors = starts(one)
    full = one.tokens @ one.weight.T
    basis = factors[0]
    kept = (one.tokens @ basis * one.gates[one.label]) @ (one.weight @ basis).T
    expected = float((full - kept).pow(2).sum() / full.pow(2).sum())
    assert leakage(one, factors) == pytest.approx(expected, rel=1e-4)
    assert leakage(problem(rank=0), factors) == 0.0


@pytest.mark.parametrize(
    ("structure", "size"), [("dense", 0), ("kronecker", 24), ("kronecker", 12)]
)
def test_aimed_gates_leak_less_where_the_states_differ(structure: str, size: int) -> None:
    one = problem(structure, rank=2, size=size)
    start = starts(one)
    aimed = aim_gates(one, start)
    for factor in aimed:
        square = factor.T @ factor
        assert float((square - torch.eye(square.shape[0])).abs().max()) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(aimed[1:], start[1:], strict=True))
    unaimed = sum(leakage(one, starts(one, seed)) for seed in range(5)) / 5
    assert leakage(one, aimed) < 0.5 * unaimed


def test_each_state_owns_the_directions_that_the_other_lacks() -> None:
    one = problem(rank=2)
    x = one.tokens @ aim_gates(one, starts(one))[0]
    masked, unmasked = x[one.label == 1], x[one.label == 0]
    for own, other, columns in (
        (masked, unmasked, slice(20, 22)),
        (unmasked, masked, slice(22, 24)),
    ):
        assert own[:, columns].pow(2).mean() > 2 * other[:, columns].pow(2).mean()


@pytest.mark.parametrize("structure", ["block", "hadamard"])
def test_structures_that_cannot_be_aimed_stay(structure: str) -> None:
    one = problem(structure, size=6)
    start = starts(one)
    assert aim_gates(one, start) is start


def test_a_single_state_cannot_be_aimed() -> None:
    one = problem()
    start = starts(one)
    for state in (0, 1):
        only = dataclasses.replace(one, label=torch.full_like(one.label, state))
        assert aim_gates(only, start) is start
