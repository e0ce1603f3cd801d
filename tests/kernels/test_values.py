"""Values that no kernel can quantize are refused, by the reference and by the site kernel alike."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.kernels import cpu, reference
from starquant_fx.operators import op

TARGETS = ["reference", *(["cpu"] if cpu.unavailable() is None else [])]
NUMBERS = [torch.nan, torch.inf, -torch.inf]
HUGE = 3e38
"""The range of a token that has both signs of it is no float32."""


def codes_of(x: Tensor, target: str, symmetric: bool = False) -> tuple[Tensor, ...]:
    """The quantizer alone."""
    if target == "reference":
        found: tuple[Tensor, ...] = op("quantize_activation")(x, 4, symmetric, None)
        return found
    tables = cpu.site_tables(None, None, None, None, [], [], None)
    return cpu.site_codes(x, None, tables, 0, 0, 4, symmetric)[:3]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bad", NUMBERS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_what_is_not_finite(target: str, bad: float, symmetric: bool) -> None:
    x = torch.randn(3, 5, 20, generator=torch.Generator().manual_seed(0))
    x[2, 1, 17] = bad
    with pytest.raises(InputError, match="a site cannot quantize its input") as caught:
        codes_of(x, target, symmetric)
    assert caught.value.got == "NaN or Inf"
    assert re.match("starquant::(quantize_activation|site_codes)", str(caught.value.where))


@pytest.mark.parametrize("target", TARGETS)
def test_a_range_that_is_not_finite(target: str) -> None:
    x = torch.zeros(2, 40)
    x[1, 3], x[1, 20] = HUGE, -HUGE
    with pytest.raises(InputError, match="a site cannot quantize its input"):
        codes_of(x, target)
    assert all(t.isfinite().all() for t in codes_of(x, target, symmetric=True))
    assert all(t.isfinite().all() for t in codes_of(x.clamp(min=0), target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bad", NUMBERS)
@pytest.mark.parametrize("channel", [20, 39])
def test_what_a_gate_would_hide(target: str, bad: float, channel: int) -> None:
    x, state = torch.randn(3, 40), torch.tensor([0, 1, 1])
    bounds = (20, 40, 8, 20)  # of state 0 and of state 1, which does not see the channel
    x[1, channel] = bad
    function: Any = op("transform_quantize")
    arguments: tuple[Any, ...] = (x, state, None, [], "dense", 8, bounds)
    arguments += (None, None, 4, False, None)
    if target == "cpu":
        tables = cpu.site_tables(None, None, None, None, [], bounds, None)
        function, arguments = cpu.site_codes, (x, state, tables, 0, 8, 4, False)
    with pytest.raises(InputError, match="a site cannot quantize its input"):
        function(*arguments)


@pytest.mark.skipif("cpu" not in TARGETS, reason="no kernels")
@pytest.mark.parametrize("features", [16, 23, 40, 100])
def test_gates_alone_are_the_reference_bit_for_bit(features: int) -> None:
    g = torch.Generator().manual_seed(features)
    x, state = torch.randn(2, 9, features, generator=g), torch.randint(0, 3, (2, 9), generator=g)
    for shared in (0, 5, features // 2, features):
        bounds = (shared, features - 1, features, features, shared // 2, shared + features // 3)
        tables = cpu.site_tables(None, None, None, None, [], bounds, None)
        found = cpu.site_codes(x, state, tables, 0, shared, 4, False)
        gated = reference.gate(x, state, shared, bounds)
        expected = reference.quantize_activation(gated, 4, False, None)
        assert all(torch.equal(a, b) for a, b in zip(found[:3], expected, strict=True))


def test_the_checks_do_not_reach_traces() -> None:
    def quantized(x: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = op("quantize_activation")(x, 4, False, None)
        return found

    x = torch.randn(3, 8)
    whole = torch.compile(quantized, backend="eager", fullgraph=True)
    assert all(torch.equal(a, b) for a, b in zip(whole(x), quantized(x), strict=True))
    with pytest.raises(InputError, match="a site cannot quantize its input"):
        whole(x * torch.nan)
