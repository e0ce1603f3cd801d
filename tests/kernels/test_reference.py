"""The executable specification against plain definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear

from starquant_fx.kernels import reference

BITS = st.integers(2, 8)
quickly = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def states(*shape: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def tokens(draw: st.DrawFn) -> Tensor:
    """[T, d] of very different magnitudes."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    scale = 10.0 ** draw(st.integers(-20, 20))
    offset = draw(st.sampled_from([0.0, 0.0, 3.0, -3.0]))
    return (randn(*shape, seed=draw(st.integers(0, 10**6))) + offset) * scale


# Token states, partition


def test_masked_tokens_are_in_state_one() -> None:
    ids = torch.tensor([[5, 9, 9], [9, 1, 0]])
    assert reference.token_state(ids, 9).tolist() == [[0, 1, 1], [1, 0, 0]]


def test_states_are_refined_by_the_ratio_over_kept_tokens() -> None:
    state = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    edges = [0.6, 0.8]
    assert reference.ratio_state(state, None, edges).tolist() == [[1, 1, 0, 0], [3, 3, 3, 2]]
    keep = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    expected = [[3, 3, 2, 2], [5, 5, 5, 4]]
    assert reference.ratio_state(state, keep, edges).tolist() == expected
    assert reference.ratio_state(state, keep.bool(), edges).tolist() == expected
    attention = (keep[:, None, None, :] * torch.ones(2, 1, 4, 1)).bool()
    assert reference.ratio_state(state, attention, edges).tolist() == expected
    lowest = torch.finfo(torch.float32).min
    additive = torch.where(attention, 0.0, lowest)
    assert reference.ratio_state(state, additive, edges).tolist() == expected
    shared = torch.where(torch.tensor([1, 1, 1, 0]).bool(), 0.0, lowest)[None, None, None]
    assert reference.ratio_state(state, shared, edges).tolist() == expected


def test_a_ratio_on_an_edge_belongs_to_the_upper_bucket_and_all_padding_to_the_first() -> None:
    state = torch.tensor([[1, 0], [1, 1]])
    keep = torch.tensor([[1, 1], [0, 0]])
    assert reference.ratio_state(state, keep, [0.5]).tolist() == [[3, 2], [1, 1]]


@quickly
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_scatter_undoes_partition(batch: int, length: int, count: int, seed: int) -> None:
    x, state = randn(batch, length, 5, seed=seed), states(batch, length, count=count, seed=seed)
    gathered, sorted_states, order = reference.partition(x, state)
    assert torch.equal(sorted_states, state.flatten().sort().values)
    assert torch.equal(gathered, x.flatten(0, 1)[order])
    for state_value in range(count):  # stable within a state
        assert bool((order[sorted_states == state_value].diff() > 0).all())
    assert torch.equal(reference.scatter(gathered, order, state), x)


def test_scatter_of_a_flat_state_stays_flat() -> None:
    x, state = randn(6, 3), states(6)
    gathered, _, order = reference.partition(x, state)
    assert torch.equal(reference.scatter(gathered, order, state), x)


# Basis, gates, centring, TAC


def dense_basis(factors: list[Tensor], structure: str) -> Tensor:
    if structure == "dense":
        return factors[0]
    if structure == "kronecker":
        return torch.kron(*factors)
    if structure == "block":
        return torch.block_diag(*factors[0])
    return torch.diag(factors[0]) @ torch.kron(*factors[1:])


@pytest.mark.parametrize(
    ("structure", "shapes"),
    [
        ("dense", [(12, 12)]),
        ("kronecker", [(4, 4), (3, 3)]),
        ("kronecker", [(12, 12), (1, 1)]),
        ("block", [(3, 4, 4)]),
        ("hadamard", [(12,), (4, 4), (3, 3)]),
    ],
)
def test_rotate_multiplies_by_the_basis(structure: str, shapes: list[tuple[int, ...]]) -> None:
    factors = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    x = randn(2, 5, 12, seed=9)
    got = reference.rotate(x, factors, structure)
    torch.testing.assert_close(got, x @ dense_basis(factors, structure), atol=1e-5, rtol=1e-5)
    weight = reference.rotate(randn(7, 12, seed=8), factors, structure)
    assert weight.shape == (7, 12)


def test_rotate_keeps_the_dtype_and_refuses_unknown_structures() -> None:
    x = randn(2, 4).bfloat16()
    assert reference.rotate(x, [torch.eye(4)], "dense").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="unknown structure 'sparse'"):
        reference.rotate(x, [torch.eye(4)], "sparse")


def test_gates_keep_the_shared_and_the_own_coordinates() -> None:
    x = torch.arange(1.0, 7).expand(3, 6)
    state = torch.tensor([0, 1, 2])
    got = reference.gate(x, state, 2, [4, 6, 2, 4, 2, 2])
    assert got.tolist() == [[1, 2, 0, 0, 5, 6], [1, 2, 3, 4, 0, 0], [1, 2, 0, 0, 0, 0]]


def test_center_and_state_bias_take_the_row_of_the_state() -> None:
    x, state, table = randn(2, 3, 4), states(2, 3), randn(2, 4, seed=1)
    assert torch.equal(reference.center(x, state, table)[1, 2], x[1, 2] - table[state[1, 2]])
    assert torch.equal(
        reference.add_state_bias(x, state, table)[0, 1], x[0, 1] + table[state[0, 1]]
    )


def test_compensate_is_a_block_diagonal_affine_map() -> None:
    x, matrix, bias = randn(2, 3, 6), randn(3, 2, 2, seed=1), randn(6, seed=2)
    expected = linear(x, torch.block_diag(*matrix), bias)
    torch.testing.assert_close(reference.compensate(x, matrix, bias), expected)


# Activation quantizer


@quickly
@given(tokens(), BITS, st.booleans())
def test_activation_error_is_at_most_half_a_step(x: Tensor, bits: int, symmetric: bool) -> None:
    codes, scale, zero = reference.quantize_activation(x, bits, symmetric, None)
    assert codes.dtype == torch.uint8
    assert int(codes.max()) <= 2**bits - 1
    assert scale.shape == zero.shape == (*x.shape[:-1], 1)
    got = reference.dequantize_activation(codes, scale, zero, torch.float32)
    # Half a step, and what float32 rounds in x / scale + zero, counted in steps.
    assert bool(((got - x).abs() <= scale * (0.5 + 2**bits * 1e-6)).all())


@quickly
@given(tokens(), BITS, st.booleans())
def test_zero_is_a_code(x: Tensor, bits: int, symmetric: bool) -> None:
    x = x.clone()
    x[..., 0] = 0
    codes, scale, zero = reference.quantize_activation(x, bits, symmetric, None)
    assert torch.equal(zero, zero.round())
    assert bool(((zero >= 0) & (zero <= 2**bits - 1)).all())
    got = reference.dequantize_activation(codes, scale, zero, torch.float32)
    assert not bool(torch.count_nonzero(got[..., 0]))


@quickly
@given(st.floats(1e-30, 1e20), st.booleans(), BITS, st.booleans())
def test_a_constant_token_is_exact(size: float, negative: bool, bits: int, symmetric: bool) -> None:
    x = torch.full((1, 5), -size if negative else size)
    codes, scale, zero = reference.quantize_activation(x, bits, symmetric, None)
    got = reference.dequantize_activation(codes, scale, zero, torch.float32)
    torch.testing.assert_close(got, x, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_token_of_zeros_is_exact(bits: int, symmetric: bool) -> None:
    codes, scale, zero = reference.quantize_activation(torch.zeros(2, 4), bits, symmetric, None)
    assert bool(torch.isfinite(scale).all())
    assert torch.equal(
        reference.dequantize_activation(codes, scale, zero, torch.float32), torch.zeros(2, 4)
    )


@quickly
@given(BITS, st.booleans(), st.floats(1e6, 1e30), st.booleans())
def test_a_huge_outlier_takes_the_range(
    bits: int, symmetric: bool, size: float, negative: bool
) -> None:
    x = torch.cat([randn(1, 7), torch.full((1, 1), -size if negative else size)], 1)
    codes, scale, zero = reference.quantize_activation(x, bits, symmetric, None)
    got = reference.dequantize_activation(codes, scale, zero, torch.float32)
    torch.testing.assert_close(got[:, 7:], x[:, 7:], rtol=1e-5, atol=0)
    assert not bool(torch.count_nonzero(got[:, :7]))


@quickly
@given(tokens(), BITS, st.booleans())
def test_a_token_is_quantized_on_its_own(x: Tensor, bits: int, symmetric: bool) -> None:
    together = reference.quantize_activation(x, bits, symmetric, None)
    for row in range(x.shape[0]):
        alone = reference.quantize_activation(x[row : row + 1], bits, symmetric, None)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, together, strict=True))


def test_clip_factors_shrink_the_range_and_what_is_outside_saturates() -> None:
    x = torch.tensor([[-8.0, -1.0, 0.0, 2.0, 4.0]])
    codes, scale, zero = reference.quantize_activation(x, 4, False, torch.tensor([0.5, 0.5]))
    assert float(scale) == pytest.approx(6 / 15)
    assert float(zero) == 10
    assert codes.tolist() == [[0, 8, 10, 15, 15]]


def test_known_codes_of_both_grids() -> None:
    x = torch.tensor([[-1.0, 0.0, 0.4, 2.0]])
    codes, scale, zero = reference.quantize_activation(x, 2, False, None)
    assert (codes.tolist(), float(scale), float(zero)) == ([[0, 1, 1, 3]], 1.0, 1.0)
    codes, scale, zero = reference.quantize_activation(x, 3, True, None)
    assert codes.tolist() == [[2, 4, 5, 7]]
    assert float(scale) == pytest.approx(2 / 3)
    assert float(zero) == 4


def test_the_quantizer_computes_in_float32() -> None:
    x = randn(3, 16).bfloat16()
    low, wide = (reference.quantize_activation(v, 8, False, None) for v in (x, x.float()))
    assert all(torch.equal(a, b) for a, b in zip(low, wide, strict=True))


# Weight quantizer and packing


@quickly
@given(tokens(), BITS)
def test_weight_error_is_at_most_half_a_step(w: Tensor, bits: int) -> None:
    codes, scale = reference.quantize_weight(w, bits, None)
    half = 2 ** (bits - 1)
    assert codes.dtype == torch.int8
    assert int(codes.abs().max()) <= half - 1 or half == 2
    assert bool(((codes * scale[:, None] - w).abs() <= scale[:, None] * (0.5 + half * 1e-6)).all())


def test_weight_scales_belong_to_output_channels() -> None:
    w = torch.tensor([[1.0, -7.0], [0.0, 0.0], [3.5, 0.2]])
    codes, scale = reference.quantize_weight(w, 4, None)
    assert codes.tolist() == [[1, -7], [0, 0], [7, 0]]
    assert scale[::2].tolist() == [1.0, 0.5]
    codes, scale = reference.quantize_weight(w, 4, torch.tensor([0.5, 1.0, 1.0]))
    assert codes.tolist() == [[2, -8], [0, 0], [7, 0]]
    assert float(scale[0]) == 0.5


@quickly
@given(BITS, st.integers(1, 5), st.integers(1, 17), st.integers(0, 10**6))
def test_unpack_undoes_pack(bits: int, rows: int, width: int, seed: int) -> None:
    half = 2 ** (bits - 1)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-half, half, (rows, width), generator=generator).to(torch.int8)
    packed = reference.pack(codes, bits)
    assert packed.shape == (-(-rows // 64), 64 * -(-width // 8) * (4 if bits <= 4 else 8))
    assert packed.dtype == torch.uint8
    assert torch.equal(reference.unpack(packed, bits, rows, width), codes)


def test_where_a_code_is_packed() -> None:
    codes = torch.zeros(65, 9, dtype=torch.int8)
    codes[2, 1], codes[2, 5], codes[64, 8] = 1, -3, -8
    half, whole = reference.pack(codes, 4), reference.pack(codes, 8)
    assert half[0, 2 * 4 + 1] == 1 + 8 | (-3 + 8) << 4  # channels 1 and 5 are in one byte
    assert half[1, 256] == 0 | 8 << 4  # channel 8 begins the third group, and the fourth is padding
    assert (half != 0x88).sum() == 2
    assert (whole[0, 9].item(), whole[0, 256 + 9].item()) == (1, 253)
    assert whole[1, 2 * 256].item() == 248


# Products


@pytest.mark.parametrize("width", [1, 513, 514, 515, 3000])
@pytest.mark.parametrize("extreme", [False, True])
def test_integer_products_are_exact(width: int, extreme: bool) -> None:
    generator = torch.Generator().manual_seed(width)
    codes = torch.randint(0, 256, (4, width), generator=generator)
    weight = torch.randint(-128, 128, (5, width), generator=generator)
    if extreme:
        codes[0], weight[0], weight[1] = 255, -128, 127
    exact = codes @ weight.T
    got = reference.integer_matmul(codes.to(torch.uint8), weight.to(torch.int8), 255 * 128)
    assert torch.equal(got.long(), exact)
    assert torch.equal(got, got.round())


@quickly
@given(
    st.integers(2, 8),
    st.integers(2, 8),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_quantized_linear_is_the_linear_of_the_dequantized(
    bits: int, weight_bits: int, width: int, with_bias: bool, with_state: bool, seed: int
) -> None:
    x, w = randn(2, 3, width, seed=seed), randn(5, width, seed=seed + 1)
    codes, scale, zero = reference.quantize_activation(x, bits, False, None)
    levels, step = reference.quantize_weight(w, weight_bits, None)
    packed = reference.pack(levels, weight_bits)
    bias = randn(5, seed=seed + 2) if with_bias else None
    state = states(2, 3, seed=seed) if with_state else None
    table = randn(2, 5, seed=seed + 3) if with_state else None
    sums = levels.sum(-1, dtype=torch.int32)
    got = reference.quantized_linear(
        codes, scale, zero, packed, step, sums, weight_bits, bias, state, table, torch.float32
    )
    expected = linear(
        reference.dequantize_activation(codes, scale, zero, torch.float64),
        reference.dequantize_weight(packed, step, weight_bits, width, torch.float64),
        None if bias is None else bias.double(),
    )
    if state is not None and table is not None:
        expected = expected + table[state]
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@quickly
@given(
    st.sampled_from([None, "dense", "kronecker", "block", "hadamard"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    BITS,
)
def test_transform_quantize_is_the_chain(
    structure: str | None,
    tac: bool,
    centred: bool,
    gated: bool,
    symmetric: bool,
    clipped: bool,
    bits: int,
) -> None:
    x, state = randn(2, 5, 12), states(2, 5)
    shapes: dict[str | None, list[tuple[int, ...]]] = {
        "dense": [(12, 12)],
        "kronecker": [(4, 4), (3, 3)],
        "block": [(3, 4, 4)],
        "hadamard": [(12,), (4, 4), (3, 3)],
    }
    factors = [randn(*shape, seed=i) for i, shape in enumerate(shapes.get(structure, []))]
    means = randn(2, 12, seed=5) if centred else None
    bounds = [10, 12, 8, 10] if gated else []
    matrix, offset = (randn(3, 4, 4, seed=6), randn(12, seed=7)) if tac else (None, None)
    clip = torch.tensor([0.9, 0.7]) if clipped else None
    got = reference.transform_quantize(
        x,
        state if centred or gated else None,
        means,
        factors,
        structure or "dense",
        8,
        bounds,
        matrix,
        offset,
        bits,
        symmetric,
        clip,
    )
    if matrix is not None and offset is not None:
        x = reference.compensate(x, matrix, offset)
    if means is not None:
        x = reference.center(x, state, means)
    if structure is not None:
        x = reference.rotate(x, factors, structure)
    if gated:
        x = reference.gate(x, state, 8, bounds)
    expected = reference.quantize_activation(x, bits, symmetric, clip)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
