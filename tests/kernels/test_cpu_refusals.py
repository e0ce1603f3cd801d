"""What the CPU kernels would read wrongly is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.kernels import cpu, reference
from tests.kernels.cpu_cases import linear_case, site_case

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
LINEAR = (
    *("codes", "scale", "zero", "packed", "weight_scale", "column_sum"),
    *("weight_bits", "bias", "state", "state_bias", "dtype", "coefficients", "image", "residual"),
)
SITE = ("x", "state", "tables", "rank", "shared", "bits", "symmetric", "other", "eps")


def linear_arguments() -> dict[str, Any]:
    """With everything that a linear may have: 5 tokens, 40 channels, 130 outputs, 2 states, 3 directions."""
    *given, bias, state, state_bias = linear_case((5, 40), 130, 4)
    image = cpu.branch_image(torch.zeros(2, 3, 130))
    more = (bias, state, state_bias, torch.float32, torch.zeros(5, 3), image, torch.zeros(5, 130))
    return dict(zip(LINEAR, (*given, *more), strict=True))


def site_arguments() -> dict[str, Any]:
    """With everything that a site may have: 2 x 9 tokens, 24 channels, 2 states, 3 directions."""
    case = site_case((2, 9, 24), (6, 4), torch.float32)
    names = ("matrix", "offset", "means", "directions", "factors", "bounds", "clip")
    tables = cpu.site_tables(*(case[name] for name in names))
    given = (case["x"], case["state"], tables, 3, case["shared"], 4, False)
    return dict(zip(SITE, (*given, torch.ones(2, 9, 24), 1e-5), strict=True))


def tables_with(**changes: Tensor | None) -> dict[str, Any]:
    tables = site_arguments()["tables"]
    named = dict(zip(cpu.TABLES, tables, strict=True)) | changes
    return {"tables": list(named.values())}


@pytest.mark.parametrize("state", [-1, 2, 10**6, -(2**62)])
def test_states_that_there_are_not(state: int) -> None:
    linear, site = linear_arguments(), site_arguments()
    calls: tuple[tuple[dict[str, Any], Any], ...] = (
        (linear, cpu.panel_linear),
        (site, cpu.site_codes),
    )
    for given, call in calls:
        call(*given.values())
        given["state"].view(-1)[3] = state
        with pytest.raises(InputError, match="states 0 to 1") as caught:
            call(*given.values())
        assert caught.value.hint == "check token_state"


def test_the_one_state_that_there_is() -> None:
    means = torch.zeros(1, 8)
    tables = cpu.site_tables(None, None, means, None, [], [], None)
    with pytest.raises(InputError, match="states 0 to 0"):
        cpu.site_codes(torch.zeros(2, 8), torch.tensor([0, 1]), tables, 0, 0, 4, False)


def test_a_state_that_nothing_reads_may_be_any() -> None:
    plain, odd = linear_case((5, 40), 130, 4)[:8], torch.full((5,), 99)
    expected = cpu.panel_linear(*[*plain, None, None, torch.float32])
    assert torch.equal(cpu.panel_linear(*[*plain, odd, None, torch.float32]), expected)
    tables = cpu.site_tables(None, None, None, None, [], [], None)
    cpu.site_codes(torch.zeros(5, 8), odd, tables, 0, 0, 4, False)


@pytest.mark.parametrize(
    "change",
    [
        {"codes": torch.zeros(5, 40)},
        {"codes": torch.zeros(5, 32, dtype=torch.uint8)},
        {"codes": torch.zeros(5, 48, dtype=torch.uint8)},
        {"codes": torch.zeros(4, 40, dtype=torch.uint8)},
        {"codes": torch.zeros(5, 40, dtype=torch.uint8, device="meta")},
        {"scale": torch.zeros(5)},
        {"scale": torch.zeros(1, 1)},
        {"zero": torch.zeros(1, 1)},
        {"packed": torch.zeros(3, 1280)},
        {"packed": torch.zeros(2, 1280, dtype=torch.uint8)},
        {"packed": torch.zeros(3, 1281, dtype=torch.uint8)[:, :1280]},
        {"weight_bits": 8},
        {"weight_scale": torch.zeros(200)},
        {"weight_scale": torch.zeros(129)},
        {"column_sum": torch.zeros(130)},
        {"column_sum": torch.zeros(129, dtype=torch.int32)},
        {"bias": torch.zeros(129)},
        {"state": torch.zeros(5, dtype=torch.int32)},
        {"state": torch.zeros(4, dtype=torch.int64)},
        {"state": None},
        {"state_bias": torch.zeros(2, 129)},
        {"state_bias": torch.zeros(130)},
        {"coefficients": torch.zeros(4, 3)},
        {"coefficients": torch.zeros(5, 17)},
        {"coefficients": None},
        {"image": torch.zeros(2, 3, 130)},
        {"residual": torch.zeros(5, 129)},
        {"residual": torch.zeros(4, 130)},
    ],
)
def test_linears(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a linear has no kernel for these tensors") as caught:
        cpu.panel_linear(*(linear_arguments() | change).values())
    assert caught.value.where == "starquant::panel_linears"
    assert caught.value.got


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(2, 9, 23)},
        {"x": torch.zeros(2, 9, 25)},
        {"x": torch.zeros(2, 8, 24)},
        {"x": torch.zeros(2, 9, 24, dtype=torch.int64)},
        {"x": torch.zeros(2, 9, 24, device="meta")},
        {"state": torch.zeros(2, 9, dtype=torch.int32)},
        {"state": torch.zeros(9, dtype=torch.int64)},
        {"state": None},
        {"rank": 0},
        {"rank": 17},
        {"shared": -1},
        {"shared": 25},
        {"bits": 1},
        {"bits": 9},
        {"other": torch.zeros(2, 9, 23)},
        {"other": torch.zeros(2, 9, 24, dtype=torch.bfloat16)},
        tables_with(matrix=torch.zeros(6, 4, 3)),
        tables_with(matrix=torch.zeros(5, 4, 4)),
        tables_with(matrix=torch.zeros(1, 24, 24)),
        tables_with(offset=torch.zeros(23)),
        tables_with(offset=None),
        tables_with(means=torch.zeros(2, 23)),
        tables_with(means=torch.zeros(3, 24)),
        tables_with(directions=torch.zeros(2, 11, 16, 2)),
        tables_with(back=torch.zeros(2, 8, 32, 2)),
        tables_with(back=None),
        tables_with(signs=torch.zeros(23)),
        tables_with(left=torch.zeros(5, 6)),
        tables_with(left=None),
        tables_with(right=torch.zeros(4, 4)),
        tables_with(right=None),
        tables_with(bounds=torch.zeros(2, dtype=torch.int64)),
        tables_with(clip=torch.zeros(1)),
        {"tables": [None]},
    ],
)
def test_sites(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a site has no kernel for these tensors") as caught:
        cpu.site_codes(*(site_arguments() | change).values())
    assert caught.value.where == "starquant::site_codes"
    assert caught.value.got


def test_the_largest_things_that_fit() -> None:
    """Widths at the limits of the kernel: 16 channels a block of TAC, 128 of a right factor, 16 directions."""
    g = torch.Generator().manual_seed(0)
    x, factors = torch.randn(3, 256, generator=g), [torch.eye(2), torch.eye(128)]
    tac = torch.eye(16).repeat(16, 1, 1), torch.zeros(256)
    tables = cpu.site_tables(*tac, None, torch.zeros(2, 256, 16), factors, [], None)
    found = cpu.site_codes(x, torch.tensor([0, 1, 1]), tables, 16, 0, 8, False)
    expected = reference.quantize_activation(x, 8, False, None)
    assert int((found[0].int() - expected[0].int()).abs().max()) <= 2
