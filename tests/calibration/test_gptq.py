from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from starquant_fx.calibration.gptq import (
    BLOCK,
    DenseFeedback,
    TokenFeedback,
    feedback,
    gptq,
    hessian,
)
from starquant_fx.kernels import reference


def problem(features: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weight [5, d], correlated second moment, scale for 4 bits."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, features, generator=generator)
    mixture = torch.randn(features, features, generator=generator)
    second = hessian(torch.randn(4 * features, features, generator=generator) @ mixture)
    return weight, second, reference.weight_scale(weight, 4, None)


def loss(weight: Tensor, codes: Tensor, scale: Tensor, second: Tensor) -> float:
    error = weight.double() - codes.double() * scale.double()[:, None]
    return float(((error @ second) * error).sum())


@pytest.mark.parametrize("order", [True, False])
def test_uncorrelated_inputs_leave_round_to_nearest(order: bool) -> None:
    weight, _, scale = problem(9)
    second = torch.diag(torch.linspace(0.1, 3.0, 9).double())
    codes = gptq(weight, DenseFeedback.of(second, 0.01, order), scale, 4)
    assert torch.equal(codes, reference.quantize_weight(weight, 4, None)[0])


def test_two_columns_by_hand() -> None:
    """The error of the first column moves the second by its regression on the first."""
    second = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double()
    weight, scale = torch.tensor([[0.4, 0.3]]), torch.tensor([1.0])
    # 0.4 rounds to 0; the second column then aims at 0.3 + 0.4 * H01 / H11 = 0.7.
    assert gptq(weight, DenseFeedback.of(second, 1e-9, order=False), scale, 4).tolist() == [[0, 1]]


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.integers(2, 2 * BLOCK + 3), st.booleans(), st.integers(0, 99))
def test_it_beats_rounding_and_stays_in_range(features: int, order: bool, seed: int) -> None:
    weight, second, scale = problem(features, seed)
    codes = gptq(weight, DenseFeedback.of(second, 1e-3, order), scale, 4)
    assert codes.dtype == torch.int8
    assert codes.shape == weight.shape
    assert -8 <= int(codes.min()) <= int(codes.max()) <= 7
    nearest = reference.quantize_weight(weight, 4, None)[0]
    # A greedy choice can lose to rounding by a little where there are few columns.
    assert loss(weight, codes, scale, second) <= 1.1 * loss(weight, nearest, scale, second)
    if features > BLOCK:
        assert loss(weight, codes, scale, second) < 0.7 * loss(weight, nearest, scale, second)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, second, scale = problem(37)
    whole = gptq(weight, DenseFeedback.of(second, 0.01, order=True), scale, 4)
    monkeypatch.setattr("starquant_fx.calibration.gptq.BLOCK", 5)
    assert torch.equal(gptq(weight, DenseFeedback.of(second, 0.01, order=True), scale, 4), whole)


def test_a_channel_that_never_occurs_is_rounded() -> None:
    weight, second, scale = problem(6)
    second[2] = second[:, 2] = 0
    codes = gptq(weight, DenseFeedback.of(second, 1e-9, order=True), scale, 4)
    assert torch.equal(codes[:, 2], reference.quantize_weight(weight, 4, None)[0][:, 2])


def test_certainty_weights_tokens() -> None:
    tokens = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert torch.equal(hessian(tokens), torch.diag(torch.tensor([0.5, 2.0])).double())
    weighted = hessian(tokens, torch.tensor([3.0, 1.0]))
    assert torch.equal(weighted, torch.diag(torch.tensor([0.75, 1.0])).double())


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 40), st.integers(2, 2 * BLOCK + 3), st.booleans(), st.booleans())
def test_the_space_of_the_tokens_gives_the_same_codes(
    count: int, features: int, order: bool, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(count * features)
    tokens = torch.randn(count, features, generator=generator)
    tokens *= torch.rand(features, generator=generator)
    tokens[:, features // 2] = 0  # a channel that never occurs
    weight = torch.randn(5, features, generator=generator)
    scale = reference.weight_scale(weight, 4, None)
    certainty = torch.rand(count, generator=generator) + 0.1 if weighted else None
    dense = DenseFeedback.of(hessian(tokens, certainty), 0.01, order)
    few = TokenFeedback.of(tokens, certainty, 0.01, order)
    for start in range(0, features, BLOCK):
        columns = slice(start, min(start + BLOCK, features))
        ours, right = few.diagonal_block(columns), dense.diagonal_block(columns)
        occurs = (tokens[:, dense.turn[columns]] != 0).any(0)
        torch.testing.assert_close(ours[occurs], right[occurs], rtol=1e-6, atol=1e-6)
    assert torch.equal(gptq(weight, few, scale, 4), gptq(weight, dense, scale, 4))


def test_few_tokens_take_the_smaller_space() -> None:
    assert isinstance(feedback(torch.randn(64, 64), None, 0.01, True), TokenFeedback)
    assert isinstance(feedback(torch.randn(65, 64), None, 0.01, True), DenseFeedback)


def test_tokens_of_nothing_leave_round_to_nearest() -> None:
    weight, _, scale = problem(40)
    nothing = feedback(torch.zeros(2, 40), None, 0.01, True)
    assert torch.equal(
        gptq(weight, nothing, scale, 4), reference.quantize_weight(weight, 4, None)[0]
    )
