"""The CPU kernels against the reference: integer products bit for bit, transforms to one level."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from starquant_fx.errors import InputError
from starquant_fx.kernels import cpu, reference
from tests.kernels.cpu_cases import expected_codes, found_codes, linear_case, site_case

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
SHAPES = [((2, 7, 33), 70), ((5, 8), 3), ((0, 16), 9), ((13, 64), 128), ((1, 1), 1)]
TYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_linear_is_the_reference_bit_for_bit(
    bits: int, shape: tuple[int, ...], outputs: int
) -> None:
    for dtype, bound in itertools.product(TYPES, (False, True)):
        arguments = linear_case(shape, outputs, bits, bound)
        expected = reference.quantized_linear(*[*arguments, dtype])
        assert torch.equal(cpu.panel_linear(*[*arguments, dtype]), expected)


def test_largest_codes_do_not_overflow() -> None:
    arguments = linear_case((3, 4096), 5, 8)
    arguments[0].fill_(255)
    arguments[3].fill_(-128)
    arguments[5].fill_(-128 * 4096)
    expected = reference.quantized_linear(*[*arguments, torch.float32])
    assert torch.equal(cpu.panel_linear(*[*arguments, torch.float32]), expected)


@pytest.mark.parametrize("largest", [1, 15, 63, 64, 255])
@pytest.mark.parametrize(
    ("rows", "features", "outputs"),
    [(128, 512, 128), (200, 576, 200), (141, 1024, 330), (530, 512, 128), (161, 4160, 64 * 3)],
)
def test_many_tokens_are_the_reference_bit_for_bit(
    rows: int, features: int, outputs: int, largest: int
) -> None:
    """Strassen's algorithm, where it takes over (codes up to 63), with ragged rows, outputs and channels."""
    arguments = linear_case((rows, features), outputs, 4)
    arguments[0] = arguments[0].clamp(max=largest)
    expected = reference.quantized_linear(*[*arguments, torch.float32])
    assert torch.equal(cpu.panel_linear(*[*arguments, torch.float32]), expected)


@pytest.mark.parametrize("weight", [-8, 7])
def test_extreme_codes_of_many_tokens_are_exact(weight: int) -> None:
    arguments = linear_case((192, 768), 256, 4)
    arguments[0] = torch.randint(0, 2, (192, 768), dtype=torch.uint8) * 63
    codes = torch.full((256, 768), weight, dtype=torch.int8)
    codes[::3] = -8
    arguments[3] = reference.pack(codes, 4)
    arguments[5] = codes.sum(1, dtype=torch.int32)
    expected = reference.quantized_linear(*[*arguments, torch.float32])
    assert torch.equal(cpu.panel_linear(*[*arguments, torch.float32]), expected)


@pytest.mark.parametrize("rank", [1, 7, 16])
def test_branch_is_added(rank: int) -> None:
    *arguments, bias, state, state_bias = linear_case((5, 40), 130, 4)
    g = torch.Generator().manual_seed(rank)
    coefficients = torch.randn(5, rank, generator=g).bfloat16()
    image = torch.randn(2, rank, 130, generator=g).bfloat16()
    full = [*arguments, bias, state, state_bias]
    expected = reference.add_low_rank(
        reference.quantized_linear(*[*full, torch.float32]), state, coefficients, image
    )
    given = [*full, torch.float32, coefficients, cpu.branch_image(image)]
    torch.testing.assert_close(cpu.panel_linear(*given), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "features", "outputs"), [(1, 33, 7), (13, 40, 130), (150, 512, 200)]
)
def test_a_residual_is_added_to_the_rounded_outputs(
    dtype: torch.dtype, rows: int, features: int, outputs: int
) -> None:
    arguments = [*linear_case((rows, features), outputs, 4), dtype]
    residual = torch.randn(outputs, rows).to(dtype).T  # not contiguous
    expected = cpu.panel_linear(*arguments) + residual
    assert torch.equal(cpu.panel_linear(*[*arguments, None, None, residual]), expected)


def test_linear_takes_strided_inputs_and_any_number_of_threads() -> None:
    arguments = linear_case((6, 40), 130, 4)
    arguments[0] = arguments[0].repeat_interleave(2, 1)[:, ::2]
    expected = reference.quantized_linear(*[*arguments, torch.float32])
    given = arguments
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(cpu.panel_linear(*[*given, torch.float32]), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(9, 96), (130, 512)])
def test_calls_from_several_threads_do_not_meet(shape: tuple[int, ...]) -> None:
    cases = [linear_case(shape, 200 + i, 4) for i in range(4)]
    for case in cases:
        case[0] = case[0] % 16
    expected = [reference.quantized_linear(*[*case, torch.float32]) for case in cases]
    given = [case for case in cases]

    def work(i: int) -> bool:
        found = [cpu.panel_linear(*[*given[i], torch.float32]) for _ in range(20)]
        return all(torch.equal(one, expected[i]) for one in found)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


# Transforms


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("shape", "sizes", "dtype", "signs"),
    [
        ((2, 9, 24), (6, 4), torch.float32, False),
        ((3, 17, 256), (128, 2), torch.float32, False),
        ((1, 40, 256), (16, 16), torch.bfloat16, False),
        ((7, 15), (5, 3), torch.float32, True),
        ((1, 192), (8, 24), torch.bfloat16, True),
    ],
)
def test_transforms_are_the_reference_to_one_level(
    shape: tuple[int, ...],
    sizes: tuple[int, int],
    dtype: torch.dtype,
    signs: bool,
    symmetric: bool,
) -> None:
    case = site_case(shape, sizes, dtype, signs) | {"symmetric": symmetric}
    codes, scale, zero, coefficients = found_codes(4, case)
    expected = expected_codes(4, case)
    apart = (codes.int() - expected[0].int()).abs()
    assert int(apart.max()) <= 1
    assert float((apart > 0).float().mean()) < 0.1  # a factor in bfloat16 against float32
    torch.testing.assert_close(scale, expected[1], rtol=0.02, atol=0)
    assert float((zero - expected[2]).abs().max()) <= 1
    torch.testing.assert_close(coefficients.float(), expected[3], rtol=0.01, atol=0.02)


def test_a_site_in_float16_and_of_any_strides() -> None:
    case = site_case((2, 9, 24), (6, 4), torch.float16)
    expected = found_codes(4, case | {"x": case["x"].float()})
    wide = torch.zeros(2, 24, 18, dtype=torch.float16).mT
    wide[:, ::2] = case["x"]
    strided = {"x": wide[:, ::2], "state": torch.stack([case["state"]] * 2, -1)[..., 0]}
    for given in (case, case | strided):
        found = found_codes(4, given)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_tokens_of_zeros_behind_a_basis() -> None:
    case = site_case((3, 9, 24), (6, 4), torch.float32)
    case["x"][1] = case["x"][2, 3:6] = 0
    for name in ("offset", "means"):
        case[name].zero_()
    codes, scale, zero, coefficients = found_codes(4, case)
    zeros = (case["x"] == 0).all(-1)
    assert int(zeros.sum()) == 12
    assert bool((codes.float() == zero)[zeros].all())
    assert bool((scale[zeros] == torch.finfo(torch.float32).tiny).all())
    assert not coefficients[zeros].any()
    assert int((codes.int() - expected_codes(4, case)[0].int()).abs().max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_site_takes_any_number_of_threads(dtype: torch.dtype) -> None:
    case = site_case((7, 41, 256), (16, 16), dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 2, 7, 1):
            torch.set_num_threads(threads)
            found.append(found_codes(4, case))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, found[0], strict=True))


def test_calls_of_sites_from_several_threads_do_not_meet() -> None:
    cases = [site_case((3, 20 + i, 8 * (4 + i)), (4 + i, 8), torch.float32) for i in range(4)]
    expected = [found_codes(4, case) for case in cases]
    barrier = threading.Barrier(4)

    def work(i: int) -> bool:
        barrier.wait()
        found = [found_codes(4, cases[i]) for _ in range(20)]
        return all(
            torch.equal(a, b) for one in found for a, b in zip(one, expected[i], strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_quantizer_alone_is_the_reference_bit_for_bit(bits: int, symmetric: bool) -> None:
    x = torch.randn(3, 11, 37, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 0
    x[0, 1] = x[0, 1].abs() + 1
    tables = cpu.site_tables(None, None, None, None, [], [], None)
    found = cpu.site_codes(x, None, tables, 0, 0, bits, symmetric)
    for given, expected in zip(
        found[:3], reference.quantize_activation(x, bits, symmetric, None), strict=True
    ):
        assert torch.equal(given, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("features", [16, 37])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("eps", [None, 1e-5])
@pytest.mark.parametrize("centred", [False, True])
def test_what_stands_before_a_site(
    dtype: torch.dtype, features: int, gated: bool, eps: float | None, centred: bool
) -> None:
    g = torch.Generator().manual_seed(features)
    x, other = (10 * torch.randn(3, 11, features, generator=g) for _ in range(2))
    x[0, 0], x[0, 1] = 0, torch.linspace(-120, 120, features)
    state = torch.randint(0, 2, (3, 11), generator=g)
    means = torch.randn(2, features, generator=g) if centred else None
    x, other = x.to(dtype), other.to(dtype)
    tables = cpu.site_tables(None, None, means, None, [], [], None)
    more = (other if gated else None, eps)
    found = cpu.site_codes(x, state, tables, 0, 0, 8, False, *more)
    before = torch.nn.functional.silu(x) * other if gated else x
    if eps is not None:
        norm = torch.nn.functional.rms_norm(before.float(), (features,), None, eps)
        before = norm.to(dtype)
    before = before.float() if means is None else before.float() - means[state]
    codes, scale, zero = reference.quantize_activation(before, 8, False, None)
    torch.testing.assert_close(found[1], scale, rtol=0.01, atol=1e-30)
    values = (
        (c.float() - z) * s for c, z, s in ((codes, zero, scale), (found[0], found[2], found[1]))
    )
    expected, got = values
    assert ((got - expected).abs() <= 1.01 * scale + 0.01 * expected.abs()).all()
    assert float((found[0] != codes).float().mean()) < 0.01, "the last bits differ, hardly a code"


def test_without_tokens_there_are_no_codes() -> None:
    case = site_case((0, 24), (6, 4), torch.float32)
    assert found_codes(4, case)[0].shape == (0, 24)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    case = site_case((2, 9, 24), (6, 4), torch.float32)
    case["x"][1, 3, 23] = bad
    with pytest.raises(InputError, match="NaN or Inf"):
        found_codes(4, case)


def test_the_default_device_does_not_matter() -> None:
    case = site_case((2, 9, 24), (6, 4), torch.float32)
    arguments = linear_case((5, 40), 130, 4)
    expected = found_codes(4, case), cpu.panel_linear(*[*arguments, torch.float32])
    tables = cpu.site_tables(None, None, None, None, [], [], None)
    with torch.device("meta"):
        found = cpu.site_codes(case["x"], None, tables, 0, 0, 4, False)
    assert found[0].device == expected[1].device == torch.device("cpu")


def test_unknown_states_are_refused() -> None:
    case = site_case((2, 9, 24), (6, 4), torch.float32)
    case["state"][1, 3] = 2
    with pytest.raises(InputError, match="states 0 to 1"):
        found_codes(4, case)
