"""The Triton kernels of what stands before a basis against the reference, in Triton's interpreter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from starquant_fx.errors import LoweringError
from starquant_fx.kernels import reference
from starquant_fx.kernels.triton import prepare, prepares
from starquant_fx.kernels.triton.prepare import split, tile_prepare
from tests.kernels.tile_cases import orthogonal, rms_norm

FULL = "matrix shift branch"


@dataclasses.dataclass
class Case:
    """Arguments of ``tile_prepare``, in its order."""

    x: Tensor
    eps: float | None
    matrix: Tensor | None
    state: Tensor | None
    shift: Tensor | None
    directions: Tensor | None
    reduce: Tensor | None
    start: Tensor | None

    def arguments(self) -> list[Any]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def found(self) -> tuple[Tensor, Tensor]:
        return tile_prepare(*self.arguments())

    def expected(self) -> tuple[Tensor, Tensor]:
        """By the reference in float32."""
        y = rms_norm(self.x.float(), self.eps)
        if self.matrix is not None:
            y = reference.compensate(y, self.matrix, torch.zeros(y.shape[-1]))
        if self.shift is not None and self.state is not None:
            y = reference.center(y, self.state, -self.shift)
        if self.directions is None or self.state is None:
            return y, y[..., :0]
        rest, c = reference.split_low_rank(y, self.state, self.directions)
        hot = torch.nn.functional.one_hot(self.state, len(self.directions))
        return rest, (hot[..., None] * c[..., None, :]).flatten(-2)


def case(
    d: int,
    g: int = 4,
    rank: int = 4,
    states: int = 2,
    parts: str = FULL,
    norm: bool = True,
    lead: tuple[int, ...] = (2, 3),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    torch.manual_seed(seed)
    matrix = torch.eye(g) + 0.1 * torch.randn(d // g, g, g) if "matrix" in parts else None
    shift = torch.randn(states, d) if "shift" in parts else None
    directions = orthogonal(states, d, rank) if "branch" in parts else None
    reduce, start = directions, None
    if directions is not None and matrix is not None:
        reduce = reference.compensate(directions.mT, matrix.mT, torch.zeros(d)).mT
    if directions is not None and shift is not None:
        start = torch.einsum("sd,sdk->sk", shift, directions)
    x = torch.randn(*lead, d).to(dtype)
    return Case(
        *(x, 1e-5 if norm else None, matrix, torch.randint(states, lead), shift, directions),
        *(None if reduce is None else reduce.to(dtype), start),
    )


def check(one: Case) -> None:
    """Float32 within 1e-5; 16 bits within 2^-8 of values of a few units: five roundings to 11 bits."""
    rest, coefficients = one.found()
    y, c = one.expected()
    assert rest.dtype == coefficients.dtype == one.x.dtype
    bound = 1e-5 if one.x.dtype == torch.float32 else 2**-8
    torch.testing.assert_close(rest.float(), y, rtol=bound, atol=bound)
    torch.testing.assert_close(coefficients.float(), c, rtol=bound, atol=bound)
    assert torch.equal(coefficients == 0, c == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    "parts", ["", "matrix", "shift", "branch", "matrix shift", "matrix branch", FULL]
)
def test_parts(parts: str, norm: bool, dtype: torch.dtype) -> None:
    check(case(96, parts=parts, norm=norm, dtype=dtype))


@pytest.mark.parametrize(
    ("d", "g"), [(32, 16), (140, 14), (130, 10), (256, 128), (192, 96), (7, 1)]
)
def test_blocks_of_tac(d: int, g: int) -> None:
    check(case(d, g))


@settings(max_examples=15, deadline=None)
@given(
    blocks=st.integers(1, 12),
    g=st.integers(1, 20),
    rank=st.integers(1, 16),
    states=st.integers(1, 6),
    lead=st.sampled_from([(1,), (17,), (1, 1), (2, 2), (2, 1, 3), (65,)]),
    half=st.booleans(),
    norm=st.booleans(),
    processors=st.integers(1, 64),
    seed=st.integers(0, 2**20),
)
def test_ragged_shapes(
    blocks: int,
    g: int,
    rank: int,
    states: int,
    lead: tuple[int, ...],
    half: bool,
    norm: bool,
    processors: int,
    seed: int,
) -> None:
    dtype = torch.float16 if half else torch.float32
    rank = min(rank, blocks * g, (128 if half else 64) // states)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "multiprocessors", lambda device: processors)
        check(case(blocks * g, g, rank, states, norm=norm, lead=lead, dtype=dtype, seed=seed))


def test_few_tokens_split_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split(4096, 1, 132) == (8, 512)
    assert split(4096, 256, 132) == (1, 4096)
    assert split(3584, 1, 132) == (8, 448)
    assert split(64, 1, 132) == (1, 64)
    monkeypatch.setattr(prepare, "multiprocessors", lambda device: 132)
    check(case(520))


@pytest.mark.parametrize("masked", [0, 1])
def test_all_tokens_of_one_state(masked: int) -> None:
    one = case(32)
    assert one.state is not None
    one.state.fill_(masked)
    check(one)


def test_no_tokens_and_padding() -> None:
    rest, coefficients = case(32, lead=(2, 0)).found()
    assert (rest.shape, coefficients.shape) == ((2, 0, 32), (2, 0, 8))
    one = case(32)
    one.x[1] = 0
    check(one)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_token(wrong: float) -> None:
    one = case(32, lead=(4,))
    clean = one.found()
    one.x[2, 5] = wrong
    rest, coefficients = one.found()
    assert not bool(rest[2].isfinite().any())
    others = [0, 1, 3]
    assert torch.equal(rest[others], clean[0][others])
    assert torch.equal(coefficients[others], clean[1][others])


def test_a_state_that_there_is_not_becomes_nan() -> None:
    one = case(32, lead=(4,))
    assert one.state is not None
    one.state[1], one.state[3] = 2, -1
    assert one.found()[0].isnan().all(-1).tolist() == [False, True, False, True]


def test_operator_and_its_fake_agree() -> None:
    for parts in ("", FULL):
        torch.library.opcheck(
            torch.ops.starquant.tile_prepare.default,
            tuple(case(32, parts=parts).arguments()),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize(
    ("d", "g", "rank", "states", "dtype"),
    [
        (128, 16, 16, 8, torch.float16),
        (256, 128, 64, 2, torch.float16),
        (128, 64, 16, 4, torch.float32),
        (256, 128, 16, 2, torch.float32),
    ],
)
def test_the_widest_branch(d: int, g: int, rank: int, states: int, dtype: torch.dtype) -> None:
    one = case(d, g, rank, states, dtype=dtype)
    assert prepares(g, rank * states, dtype)
    check(one)
    assert not prepares(g, rank * states + 1, dtype)
    with pytest.raises(LoweringError, match="before a site's basis"):
        case(d, g, rank + 1, states, dtype=dtype).found()


def test_larger_blocks_are_refused() -> None:
    with pytest.raises(LoweringError, match=r"blocks of TAC up to 128.*\n.*blocks of 256"):
        case(512, 256).found()
