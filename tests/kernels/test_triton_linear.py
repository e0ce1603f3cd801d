"""The Triton linear in the interpreter, against the reference: integers bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from starquant_fx.errors import InputError, LoweringError
from starquant_fx.kernels import cpu, reference
from starquant_fx.kernels.triton import configs, launch
from starquant_fx.kernels.triton.configs import Config
from tests.kernels.triton_cases import Case, dress, make_case

TILE = Config(t=16, n=64, warps=4, stages=1, split=1, parts=1, band=2, swap=True)
FORMS = [
    pytest.param(dataclasses.replace(TILE, swap=swap, split=split), id=f"swap={swap}-split={split}")
    for swap, split in itertools.product((True, False), (1, 3))
]


def run(case: Case, tile: Config, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(configs, "choose", lambda *_: tile)
    return case.run()


@pytest.mark.parametrize("tile", FORMS)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_integers_are_exact(tile: Config, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((2, 11), 700, 70, bits, unit=True)
    found = run(case, tile, monkeypatch)
    assert torch.equal(found, case.expected())
    exact = (case.codes.double() - case.zero) @ case.weight.double().T
    assert torch.equal(found.double(), exact)


@pytest.mark.parametrize("tile", FORMS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("code", "zero"), [(127, -128), (-128, 127)])
def test_extreme_codes_of_many_channels(
    tile: Config, bits: int, code: int, zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest sums that int32 has to hold, where products of codes alone are half as large."""
    features = 65792 if tile.split > 1 and tile.swap else 4096
    low = -(2 ** (bits - 1))
    case = make_case((2,), features, 3, bits, unit=True)
    case.weight = torch.full_like(case.weight, low)
    case.weight[1] = -low - 1
    case.column_sum = case.weight.sum(-1, dtype=torch.int32)
    case.codes = torch.full_like(case.codes, code)
    case.zero = torch.full_like(case.zero, zero)
    found = run(case, tile, monkeypatch)
    exact = [(code - zero) * features * w for w in (low, -low - 1, low)]
    assert torch.equal(found, torch.tensor([exact, exact], dtype=torch.float64).float())


@pytest.mark.parametrize("tile", FORMS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("swiglu", [False, True])
def test_the_whole_epilogue(
    tile: Config, bits: int, swiglu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case((19,), 300, 140 if swiglu else 70, bits)
    case.swiglu = swiglu
    case = dress(case)
    found = run(case, tile, monkeypatch)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, case.expected(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("swap", [True, False])
def test_epilogue_in_parts_is_the_same(
    parts: int, swap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case((70,), 200, 96, 4)
    case.swiglu = True
    case = dress(case)
    whole = dataclasses.replace(TILE, t=64, swap=swap)
    expected = run(case, whole, monkeypatch)
    assert torch.equal(run(case, dataclasses.replace(whole, parts=parts), monkeypatch), expected)


@pytest.mark.parametrize("tile", FORMS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("features", "groups"), [(512, 4), (512, 2), (384, 1)])
def test_groups_of_channels(
    tile: Config, bits: int, features: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case((9,), features, 20, bits, groups)
    torch.testing.assert_close(run(case, tile, monkeypatch), case.expected(), rtol=1e-5, atol=1e-4)
    whole = dress(make_case((9,), features, 20, bits, groups))
    torch.testing.assert_close(
        run(whole, tile, monkeypatch), whole.expected(), rtol=2e-3, atol=2e-3
    )


def test_one_group_is_a_scale_for_all() -> None:
    case = make_case((5,), 256, 12, 4, 1)
    flat = dataclasses.replace(
        case, weight_scale=case.weight_scale[:, 0], column_sum=case.column_sum[:, 0]
    )
    torch.testing.assert_close(case.expected(), flat.expected(), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
def test_cpu_kernels_refuse_groups() -> None:
    case = make_case((5,), 256, 12, 4, 2)
    with pytest.raises(InputError, match="a linear has no kernel") as refusal:
        cpu.panel_linear(
            (case.codes.int() + 128).to(torch.uint8),
            case.scale,
            case.zero,
            reference.pack(case.weight, 4),
            case.weight_scale,
            case.column_sum,
            4,
            None,
            None,
            None,
            torch.float32,
        )
    assert "weight_scale: floats [24]" in str(refusal.value)


@settings(max_examples=12, deadline=None)
@given(
    tokens=st.integers(0, 40),
    features=st.integers(1, 300),
    outputs=st.integers(1, 90),
    bits=st.sampled_from([2, 4, 5, 8]),
    swiglu=st.booleans(),
    form=st.tuples(st.booleans(), st.sampled_from([1, 2])),
    seed=st.integers(0, 9),
)
def test_any_shape(
    tokens: int,
    features: int,
    outputs: int,
    bits: int,
    swiglu: bool,
    form: tuple[bool, int],
    seed: int,
) -> None:
    rows = 2 * outputs if swiglu else outputs
    case = make_case((tokens,), features, rows, bits, seed=seed)
    tile = dataclasses.replace(TILE, swap=form[0], split=form[1])
    with pytest.MonkeyPatch.context() as patch:
        plain = run(case, tile, patch)
        assert torch.equal(plain, case.expected())
        case.swiglu = swiglu
        case = dress(case, rank=16, dtype=torch.float32)
        torch.testing.assert_close(run(case, tile, patch), case.expected(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("lead", [(), (1,), (0,), (3, 0)])
def test_few_tokens(lead: tuple[int, ...]) -> None:
    case = make_case(lead, 130, 5, 4)
    found = case.run()
    assert found.shape == (*lead, 5)
    assert torch.equal(found, case.expected())


def test_a_token_of_nan_stays_alone() -> None:
    case = make_case((4,), 130, 5, 4)
    clean = case.run()
    case.scale[2] = float("nan")
    case.zero[2] = float("nan")
    found = case.run()
    assert found[2].isnan().all()
    assert torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])


def test_opcheck_and_no_graph_break() -> None:
    case = make_case((3,), 130, 6, 4)
    arguments = (*case.shared(), None, True, torch.float16)
    torch.library.opcheck(torch.ops.starquant.tile_linear.default, arguments)


REFUSED: dict[str, dict[str, Any]] = {
    "codes": {"codes": torch.zeros(4, 130, dtype=torch.uint8)},
    "scale": {"scale": torch.ones(4)},
    "packed": {"weight": torch.zeros(6, 300, dtype=torch.int8)},
    "column_sum": {"column_sum": torch.zeros(6)},
    "groups": {"weight_scale": torch.ones(6, 2), "column_sum": torch.zeros(6, 2).int()},
    "states": {"state_bias": torch.ones(2, 6)},
    "image": {"coefficients": torch.ones(4, 16)},
    "multiples of 16": {"coefficients": torch.ones(4, 8), "image": torch.ones(8, 6)},
    "residual": {"residual": torch.ones(4, 6).half()},
    "rows of gate": {"swiglu": True, "weight": torch.zeros(5, 130, dtype=torch.int8)},
    "float32, float16": {"dtype": torch.float64},
    "2 to 8 bits": {"bits": 9},
    "channels": {"codes": torch.zeros(4, 65794, dtype=torch.int8)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_does_not_fit(name: str) -> None:
    case = dataclasses.replace(make_case((4,), 130, 6, 4), **REFUSED[name])
    with pytest.raises(InputError) as refusal:
        case.run()
    assert name in str(refusal.value)
    assert "starquant::tile_linear" in str(refusal.value)
    assert refusal.value.hint


def test_no_kernel_without_a_device_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with pytest.raises(LoweringError, match="TRITON_INTERPRET=1"):
        make_case((4,), 130, 6, 4).run()
