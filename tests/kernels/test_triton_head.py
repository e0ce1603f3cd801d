"""The greedy head in the interpreter, against the reference on logits in memory."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from starquant_fx.errors import InputError, LoweringError
from starquant_fx.kernels import reference
from starquant_fx.kernels.triton import configs, head, launch
from tests.kernels.triton_cases import dress, make_case

Choice = tuple[Tensor, Tensor, Tensor]


def choose(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Choice:
    found: Choice = torch.ops.starquant.tile_greedy(x, weight, bias)
    return found


def expect(found: Choice, logits: Tensor) -> None:
    """Largest logits and tokens are equal, probabilities to a rounding."""
    largest, tokens, probability = reference.greedy(logits, by_probability=False)
    assert [part.dtype for part in found] == [logits.dtype, torch.int64, logits.dtype]
    assert torch.equal(found[0].nan_to_num(7e4), largest.nan_to_num(7e4))
    assert torch.equal(found[1], tokens)
    step = 2 * torch.finfo(logits.dtype).eps
    torch.testing.assert_close(found[2], probability, rtol=step, atol=1e-7, equal_nan=True)


def integers(rows: int, features: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> Choice:
    """Small integers, so that sums are exact and often equal."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (rows, features), generator=g)
    weight = torch.randint(-1, 2, (vocab, features), generator=g)
    bias = torch.randint(-1, 2, (vocab,), generator=g)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.fixture(params=[True, False], ids=["swap", "rows first"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configs.launch_config(configs.INTERPRETED_TILE, 90)
    tile = dataclasses.replace(config, swap=request.param)
    monkeypatch.setattr(configs, "choose_head", lambda *_: tile)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_equal_logits_give_the_first_token(dtype: torch.dtype) -> None:
    x, weight, bias = integers(21, 70, 333, dtype)
    x[3] = 0
    expect(choose(x, weight, bias), torch.nn.functional.linear(x, weight, bias))
    found = choose(x, weight)
    expect(found, torch.nn.functional.linear(x, weight))
    assert found[1][3] == 0


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(0, 20),
    features=st.integers(1, 140),
    vocab=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_any_shape(rows: int, features: int, vocab: int, seed: int) -> None:
    x, weight, bias = integers(rows, features, vocab, torch.float16, seed)
    expect(choose(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


@pytest.mark.usefixtures("form")
def test_values_that_are_not_finite() -> None:
    x = torch.eye(6)
    weight = torch.zeros(200, 6)
    bias = torch.randint(-3, 3, (200,)).float()
    bias[64:128] = -math.inf  # a whole tile
    weight[70, 0] = math.nan  # alone, in the second tile
    weight[5, 1] = weight[190, 1] = math.nan
    x[2], x[3] = 0, math.nan
    expect(choose(x, weight.nan_to_num(), bias), x @ weight.nan_to_num().T + bias)
    expect(choose(x, weight, bias), x @ weight.T + bias)
    nothing = torch.full((200,), -math.inf)
    expect(choose(x, weight.nan_to_num(), nothing), x @ weight.nan_to_num().T + nothing)
    nothing[130] = math.inf
    expect(choose(x[:2], weight.nan_to_num(), nothing), x[:2] @ weight.nan_to_num().T + nothing)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("groups", [0, 2])
def test_quantized_head_is_its_linear(bits: int, groups: int) -> None:
    case = make_case((13,), 256, 150, bits, groups)
    for chosen in (case, dataclasses.replace(dress(case), residual=None)):
        logits = chosen.run()
        found = torch.ops.starquant.tile_greedy_int8(*chosen.shared(), chosen.dtype)
        expect(found, logits)


def test_quantized_head_of_equal_logits() -> None:
    case = make_case((3,), 130, 300, 4)
    case.weight[:] = case.weight[:1].clone()
    case.column_sum[:] = case.weight.sum(-1, dtype=torch.int32)
    case.weight_scale[:] = 1
    found = torch.ops.starquant.tile_greedy_int8(*case.shared(), torch.float32)
    assert found[1].tolist() == [0, 0, 0]
    torch.testing.assert_close(found[2], torch.full((3,), 1 / 300))


def test_opcheck() -> None:
    torch.library.opcheck(
        torch.ops.starquant.tile_greedy.default, integers(3, 40, 70, torch.float32)
    )
    case = make_case((3,), 130, 70, 8)
    torch.library.opcheck(
        torch.ops.starquant.tile_greedy_int8.default, (*case.shared(), torch.float16)
    )


def test_refusals() -> None:
    x, weight, bias = integers(3, 40, 70, torch.float32)
    for given_ in ((x[0], weight, bias), (x, weight[:, 1:], bias), (x, weight.half(), bias)):
        with pytest.raises(InputError, match="cannot take these"):
            choose(*given_)
    with pytest.raises(InputError, match="cannot take these"):
        choose(x, weight, bias[1:])
    with pytest.raises(InputError, match="cannot take these"):
        choose(x, weight[:0], None)
    case = make_case((2, 3), 130, 70, 8)
    with pytest.raises(InputError, match="cannot take these") as refusal:
        torch.ops.starquant.tile_greedy_int8(*case.shared(), torch.float16)
    assert refusal.value.where == head.WHERE_INT8


def test_no_kernel_without_a_device_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with pytest.raises(LoweringError, match="TRITON_INTERPRET=1"):
        choose(*integers(3, 40, 70, torch.float32))
