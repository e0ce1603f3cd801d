"""The Triton kernels of sites against the reference, in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from starquant_fx.errors import LoweringError
from starquant_fx.kernels import reference
from starquant_fx.kernels.triton import launch, sizes
from starquant_fx.kernels.triton.site import tile_site
from tests.kernels.tile_cases import Site, basis, require_close, site_case

BASES = [
    ("none", 1, 60),
    ("dense", 1, 24),
    ("block", 3, 8),
    ("block", 2, 20),
    ("kronecker", 128, 2),
    ("kronecker", 16, 4),
    ("kronecker", 6, 37),
    ("hadamard", 8, 40),
    ("hadamard", 128, 5),
]
HALVES = [torch.float32, torch.float16]
OPTIONS = [(False, False, False), (True, False, True), (False, True, True), (True, True, False)]
"""Norm, shift, gates."""


def check(case: Site) -> None:
    require_close(case.found(), case.expected(), case.bits, case.x.dtype != torch.float32)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("structure", "a", "b"), BASES)
def test_site_is_the_reference(structure: str, a: int, b: int, dtype: torch.dtype) -> None:
    for norm, shift, gates in OPTIONS:
        check(site_case(structure, a, b, (3,), dtype, norm=norm, shift=shift, gates=gates))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    ("structure", "dtype"), [("none", torch.float32), ("kronecker", torch.float16)]
)
def test_bits_grids_and_clips(structure: str, dtype: torch.dtype, bits: int) -> None:
    for symmetric, clip in itertools.product((False, True), repeat=2):
        check(site_case(structure, 16, 4, (2,), dtype, bits=bits, symmetric=symmetric, clip=clip))


@settings(max_examples=15, deadline=None)
@given(
    base=st.sampled_from(["none", "block", "kronecker", "hadamard"]),
    a=st.integers(1, 20),
    b=st.integers(1, 40),
    lead=st.sampled_from([(1,), (5,), (1, 1), (2, 2), (2, 1, 3), (9,)]),
    half=st.booleans(),
    states=st.integers(1, 5),
    options=st.tuples(*[st.booleans()] * 4),
    bits=st.integers(2, 8),
    seed=st.integers(0, 2**20),
)
def test_ragged_shapes(
    base: str,
    a: int,
    b: int,
    lead: tuple[int, ...],
    half: bool,
    states: int,
    options: tuple[bool, bool, bool, bool],
    bits: int,
    seed: int,
) -> None:
    dtype = torch.float16 if half else torch.float32
    norm, shift, gates, symmetric = options
    check(
        site_case(base, a, b, lead, dtype, states, norm, shift, gates, bits, symmetric, seed=seed)
    )


@pytest.mark.parametrize("size", [1, 28, 96, 148, 200])
def test_a_factor_in_pieces(size: int) -> None:
    first, second = sizes.pieces(size)
    assert first + second >= size
    assert (first + second) <= 2 ** max(4, (size - 1).bit_length())
    check(site_case("kronecker", 4, size, (2,)))


@pytest.mark.parametrize("structure", ["kronecker", "hadamard"])
@pytest.mark.parametrize(("norm", "shift"), list(itertools.product((False, True), repeat=2)))
def test_a_wide_token_has_its_entry_apart(
    structure: str, norm: bool, shift: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "WIDE", 256)
    sizes.plan.cache_clear()
    form = sizes.plan(16, 37, 86, norm, shift)
    assert not form.stay
    assert form.second
    assert form.entered == (norm or shift)
    try:
        for roomy in ((), (90,)):  # both forms: factors read for every token, or kept
            monkeypatch.setattr(sizes, "ROOMY", roomy)
            sizes.plan.cache_clear()
            check(site_case(structure, 16, 37, (2,), norm=norm, shift=shift))
    finally:
        sizes.plan.cache_clear()


@pytest.mark.parametrize("each", [1, 2, 8])
def test_programs_do_several_tokens(each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "RESIDENT", 11 // each)
    assert sizes.tokens_each(11, torch.device("cpu")) >= each
    check(site_case("kronecker", 8, 4, (11,)))


@pytest.mark.parametrize("structure", ["none", "block", "kronecker"])
@pytest.mark.parametrize("masked", [0, 1])
def test_all_tokens_of_one_state(structure: str, masked: int) -> None:
    case = site_case(structure, 4, 8, (3,))
    assert case.state is not None
    case.state.fill_(masked)
    check(case)


@pytest.mark.parametrize(("structure", "a", "b"), BASES[:5])
def test_no_states_no_tokens_and_padding(structure: str, a: int, b: int) -> None:
    bare = site_case(structure, a, b, (2,), shift=False, gates=False)
    check(dataclasses.replace(bare, state=None))
    empty = site_case(structure, a, b, (2, 0))
    codes, scale, zero = empty.found()
    assert (codes.shape, scale.shape, zero.shape) == ((2, 0, a * b), (2, 0, 1), (2, 0, 1))
    padded = site_case(structure, a, b, (2, 2), shift=False)
    padded.x[1] = 0
    check(padded)


@pytest.mark.parametrize(("structure", "a", "b"), BASES)
def test_what_is_not_finite_makes_its_scale_nan(structure: str, a: int, b: int) -> None:
    for both in (False, True):
        case = site_case(structure, a, b, (5,), norm=both, shift=both)
        clean = case.found()
        case.x[0, 0] = float("nan")
        case.x[2, -1] = float("inf")
        case.x[3, a * b // 2] = -float("inf")
        found = case.found()
        assert found[1].isnan().flatten().tolist() == [True, False, True, True, False]
        for got, expected in zip(found, clean, strict=True):
            assert torch.equal(got[[1, 4]], expected[[1, 4]])


def test_a_state_that_there_is_not_makes_its_scale_nan() -> None:
    for structure in ("none", "kronecker", "block"):
        case = site_case(structure, 4, 8, (4,))
        assert case.state is not None
        case.state[1] = 2
        case.state[3] = -1
        assert case.found()[1].isnan().flatten().tolist() == [False, True, False, True]


@pytest.mark.parametrize("factor", [1e-30, 1e-4, 1e4, 1e30])
def test_extreme_values(factor: float) -> None:
    for structure in ("none", "kronecker"):
        case = site_case(structure, 8, 4, norm=False, shift=False)
        case.x.mul_(factor)
        case.x[0, 0, 3] *= 1000
        check(case)


@pytest.mark.parametrize("symmetric", [False, True])
def test_eight_bits_are_shifted_codes_of_the_same_values(symmetric: bool) -> None:
    case = site_case("kronecker", 16, 4, bits=8, symmetric=symmetric)
    codes, scale, zero = case.found()
    expected, step, point = case.expected()
    assert bool((codes.int() + 128 == expected).float().mean() > 0.999)
    assert torch.equal(zero + 128, point)
    torch.testing.assert_close((codes.float() - zero) * scale, (expected - point) * step)


def test_ties_go_to_even() -> None:
    x = torch.tensor([[0.0, 0.5, 1.5, 2.5, 3.5, 15.0], [-15.0, -0.5, -1.5, -2.5, -3.5, 0.0]])
    codes, _, _ = tile_site(x, None, None, None, [], "none", 0, [], 4, False, None)
    assert torch.equal(codes.int(), reference.quantize_activation(x, 4, False, None)[0].int())


def test_strides_of_arguments_do_not_matter() -> None:
    case = site_case("kronecker", 8, 4, (3, 5))
    clean = case.found()
    assert case.state is not None
    turned = dataclasses.replace(
        case,
        x=case.x.transpose(0, 1).contiguous().transpose(0, 1),
        state=case.state.T.contiguous().T,
        factors=[f.T.contiguous().T for f in case.factors],
    )
    for got, expected in zip(turned.found(), clean, strict=True):
        assert torch.equal(got, expected)


def test_operator_and_its_fake_agree() -> None:
    case = site_case("kronecker", 8, 4)
    torch.library.opcheck(
        torch.ops.starquant.tile_site.default,
        tuple(case.arguments()),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 300)
    factors = basis("kronecker", 1, 300)
    with pytest.raises(LoweringError, match="no kernel in the triton target"):
        tile_site(x, None, None, None, factors, "kronecker", 0, [], 4, False, None)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with pytest.raises(LoweringError, match="cannot run here"):
        site_case("none", 1, 8).found()
