"""The CPU kernels of attention and of the rotary embedding against torch, in float64 and bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from starquant_fx.errors import InputError
from starquant_fx.kernels import cpu
from starquant_fx.models.layers import apply_rotary, rotary_tables

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
HALF = torch.bfloat16
BLOCK = 512
"""Keys whose scores the kernel keeps at a time."""


def heads_of(
    batch: int, heads: int, length: int, channels: int, g: torch.Generator, gain: float = 1
) -> Tensor:
    """[B, H, L, D] in the memory that a projection makes."""
    x = gain * torch.randn(batch, length, heads, channels, generator=g)
    return x.to(HALF).transpose(1, 2)


def case(
    batch: int, heads: tuple[int, int], lengths: tuple[int, int], channels: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q = heads_of(batch, heads[0], lengths[0], channels, g, gain=2)
    k, v = (heads_of(batch, heads[1], lengths[1], channels, g) for _ in range(2))
    return q, k, v


def in_float64(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: Any = None) -> Tensor:
    added = mask if mask is None or mask.dtype == torch.bool else mask.double()
    return scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=added, scale=scale, enable_gqa=True
    )


def check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: Any = None) -> None:
    """Two roundings to bfloat16, of the weights and of the result, are all that may be lost."""
    found = cpu.attention(q, k, v, mask, scale)
    assert found.dtype == HALF
    assert found.transpose(1, 2).is_contiguous()
    bound = 2**-8 * in_float64(q, k, v.abs(), mask, scale) * 2.02 + 1e-6
    error = (found.double() - in_float64(q, k, v, mask, scale)).abs()
    assert bool((error <= bound).all()), float((error / bound).max())


def mask_case(kind: str, size: tuple[int, int, int, int], seed: int) -> Tensor | None:
    batch, _, queries, keys = size
    g = torch.Generator().manual_seed(seed)
    if kind == "none":
        return None
    if kind == "keys":
        return torch.rand(batch, 1, 1, keys, generator=g) < 0.7
    if kind == "lowest":  # LLaDA's
        hidden = (torch.rand(batch, 1, 1, keys, generator=g) < 0.3).to(HALF)
        return hidden * torch.finfo(HALF).min
    if kind == "pairs":
        return torch.rand(queries, keys, generator=g) < 0.5
    if kind == "queries":
        return (torch.rand(batch, 1, queries, 1, generator=g) < 0.5).expand(size)
    return torch.randn(size, generator=g).masked_fill(
        torch.rand(size, generator=g) < 0.3, -torch.inf
    )


@given(
    batch=st.integers(0, 2),
    kv_heads=st.integers(1, 2),
    shared=st.integers(1, 3),
    lengths=st.tuples(st.integers(1, 110), st.integers(1, 2 * BLOCK + 70)),
    channels=st.one_of(st.integers(1, 40), st.sampled_from([64, 80, 96, 128, 131])),
    kind=st.sampled_from(["none", "keys", "lowest", "pairs", "queries", "scores"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_attention_is_torch_in_float64(
    batch: int,
    kv_heads: int,
    shared: int,
    lengths: tuple[int, int],
    channels: int,
    kind: str,
    seed: int,
) -> None:
    heads = (kv_heads * shared, kv_heads)
    mask = mask_case(kind, (batch, heads[0], *lengths), seed)
    check(*case(batch, heads, lengths, channels, seed), mask)


@pytest.mark.parametrize("keys", [1, 2, 63, 64, 65, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
@pytest.mark.parametrize("channels", [12, 32, 64, 128])
def test_lengths_around_blocks(keys: int, channels: int) -> None:
    check(*case(1, (4, 2), (49, keys), channels))
    check(*case(1, (2, 2), (keys, 3), channels))


@pytest.mark.parametrize("scale", [1e-3, 0.25, 3.0])
def test_scales(scale: float) -> None:
    q, k, v = case(1, (2, 1), (7, BLOCK + 100), 16)
    check(q, k, v, None, scale)
    check(q, k, v, mask_case("scores", (1, 2, 7, BLOCK + 100), 1), scale)


def test_scores_far_apart() -> None:
    q, k, v = case(2, (3, 1), (50, 2 * BLOCK), 64)
    check(40 * q, k, v)
    # The largest score comes last, so that each block rescales what the others summed.
    rising = torch.linspace(0, 300, 2 * BLOCK)[None]
    check(q, k, v, rising)
    check(q, k, v, -rising)


def test_strides() -> None:
    g = torch.Generator().manual_seed(0)
    together = torch.randn(2, 70, 3, 4, 16, generator=g).to(HALF)
    q, k, v = (x.transpose(1, 2) for x in together.unbind(2))
    check(q, k, v)
    check(q.contiguous(), k[:, :2], v[:, 1:3])
    check(*(x.mT.contiguous().mT for x in (q, k, v)))
    check(q, k[:1].expand_as(k), v, torch.ones(1, 1, 70, 70, dtype=torch.bool).tril().mT)


def test_a_query_that_may_attend_to_nothing_gets_what_torch_gives() -> None:
    q, k, v = case(2, (2, 1), (9, BLOCK + 5), 16)
    mask = torch.ones(2, 1, 9, BLOCK + 5, dtype=torch.bool)
    mask[0, :, 3] = False
    mask[1, :, 4, :BLOCK] = False
    found = cpu.attention(q, k, v, mask, None)
    assert bool((found[0, :, 3] == 0).all())
    check(q, k, v, mask)
    check(q, k, v, torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(HALF).min))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("key", [1, BLOCK + 1])
def test_what_is_not_finite_spreads_as_in_torch(bad: float, masked: bool, key: int) -> None:
    inputs = case(1, (4, 2), (10, BLOCK + 9), 12)
    mask = torch.arange(BLOCK + 9)[None] % 3 != 0 if masked else None
    for i, row in enumerate((5, key, key)):
        q, k, v = given_ = [x.clone() for x in inputs]
        given_[i][0, 1, row, 3] = bad
        found, expected = cpu.attention(q, k, v, mask, None), in_float64(q, k, v, mask)
        torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05, equal_nan=True)


def test_nothing_to_do() -> None:
    assert cpu.attention(*case(0, (4, 2), (9, 9), 16), None, None).shape == (0, 4, 9, 16)
    assert cpu.attention(*case(2, (4, 2), (0, 9), 16), None, None).shape == (2, 4, 0, 16)
    assert torch.equal(
        cpu.attention(*case(2, (4, 2), (3, 0), 16), None, None),
        torch.zeros(2, 4, 3, 16, dtype=HALF),
    )


def test_any_number_of_threads_gives_the_same() -> None:
    inputs = case(2, (6, 2), (130, 200), 32)
    x, tables = inputs[0], rotary_tables(torch.arange(130)[None], 32, 1e4)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5, 1, 3):
            torch.set_num_threads(threads)
            found.append((cpu.attention(*inputs, None, None), cpu.rotary(x, *tables)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for pair in found for a, b in zip(pair, found[0], strict=True))


def test_calls_from_several_threads_do_not_meet() -> None:
    cases = [case(1, (4, 2), (60 + i, 300 - i), 32 + i, seed=i) for i in range(4)]
    expected = [cpu.attention(*inputs, None, None) for inputs in cases]

    def work(i: int) -> bool:
        found = [cpu.attention(*cases[i], None, None) for _ in range(20)]
        return all(torch.equal(one, expected[i]) for one in found)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_the_default_device_does_not_matter() -> None:
    inputs = case(1, (2, 2), (5, 5), 16)
    mask = mask_case("pairs", (1, 2, 5, 5), 0)
    expected = cpu.attention(*inputs, mask, None)
    with torch.device("meta"):
        found = cpu.attention(*inputs, mask, None)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"q": torch.zeros(1, 4, 3, 8)},
        {"q": torch.zeros(4, 3, 8, dtype=HALF)},
        {"q": torch.zeros(1, 3, 3, 8, dtype=HALF)},
        {"q": torch.zeros(1, 4, 3, 7, dtype=HALF)},
        {"q": torch.zeros(2, 4, 3, 8, dtype=HALF)},
        {"k": torch.zeros(1, 2, 4, 8, dtype=HALF)},
        {"mask": torch.ones(3, 4, dtype=torch.bool)},
        {"mask": torch.ones(3, 5, dtype=torch.long)},
        {"mask": torch.ones(5, dtype=torch.bool)},
        {"mask": torch.ones(1, 1, 1, 3, 5, dtype=torch.bool)},
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": float("nan")},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    q, k, v = case(1, (4, 2), (3, 5), 8)
    arguments: dict[str, Any] = {"q": q, "k": k, "v": v, "mask": None, "scale": None}
    cpu.attention(**arguments)
    with pytest.raises(InputError, match="attention has no kernel") as refusal:
        cpu.attention(**(arguments | change))
    assert refusal.value.where == "starquant::attention"
    assert "bfloat16 [1, 2, 5, 8]" in str(refusal.value.got)


@pytest.mark.parametrize("dtype", [HALF, torch.float32])
@pytest.mark.parametrize("channels", [2, 12, 34, 64, 128])
@pytest.mark.parametrize("batches", [(3, 1), (3, 3), (1, 1), (0, 1)])
def test_rotary_is_the_model_code_bit_for_bit(
    dtype: torch.dtype, channels: int, batches: tuple[int, int]
) -> None:
    g = torch.Generator().manual_seed(channels)
    x = torch.randn(batches[0], 7, 5, channels, generator=g).to(dtype).transpose(1, 2)
    x[..., ::5] *= 1e20
    tables = rotary_tables(torch.randint(0, 999, (batches[1], 7), generator=g), channels, 1e4)
    for given_ in (x, x.contiguous(), x.mT.contiguous().mT):
        found = cpu.rotary(given_, *tables)
        assert torch.equal(found, apply_rotary(x, *tables))
        assert found.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 2, 5, 7), (1, 1, 5, 7)),
        ((2, 5, 8), (1, 1, 5, 8)),
        ((1, 2, 5, 8), (1, 1, 4, 8)),
        ((1, 2, 5, 8), (2, 1, 5, 8)),
        ((1, 2, 5, 8), (1, 2, 5, 8)),
        ((1, 2, 5, 8), (5, 8)),
    ],
)
def test_rotary_refuses_what_does_not_fit(shapes: tuple[tuple[int, ...], ...]) -> None:
    x, table = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(InputError, match="rotary embedding has no kernel"):
        cpu.rotary(x, table, table)


def test_rotary_refuses_other_types() -> None:
    x, table = torch.zeros(1, 2, 5, 8), torch.zeros(1, 1, 5, 8)
    for given_ in (
        (x.half(), table, table),
        (x, table.to(HALF), table),
        (x, table, table[:, :, :1]),
    ):
        with pytest.raises(InputError, match="rotary embedding has no kernel"):
            cpu.rotary(*given_)


def test_fake_results_are_laid_out_as_the_real_ones() -> None:
    q, k, v = case(2, (4, 2), (7, 9), 16)
    tables = rotary_tables(torch.arange(7)[None], 16, 1e4)
    operators = torch.ops.starquant
    real = (operators.attention(q, k, v, None, None), operators.rotary(q, *tables))
    mode = FakeTensorMode()
    with mode:
        q, k, v, *tables_ = (mode.from_tensor(x) for x in (q, k, v, *tables))
        fake = (operators.attention(q, k, v, None, None), operators.rotary(q, *tables_))
    for a, b in zip(real, fake, strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
