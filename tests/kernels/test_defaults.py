"""Torch's default dtype and device change nothing that a kernel computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from starquant_fx.kernels import cpu, reference
from tests.kernels.cpu_cases import expected_codes, found_codes, linear_case, site_case

needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def other_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """A default dtype that is in force while the context lasts that the test opens."""
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


@needs_kernels
def test_a_site_under_another_default_dtype(other_dtype: torch.dtype) -> None:
    case = site_case((2, 9, 24), (6, 4), torch.float32)
    expected = found_codes(4, case)
    torch.set_default_dtype(other_dtype)
    found = found_codes(4, case)
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_kernels
def test_linears_under_another_default_dtype(other_dtype: torch.dtype) -> None:
    arguments = linear_case((5, 40), 130, 4)
    expected = cpu.panel_linear(*[*arguments, torch.float32])
    torch.set_default_dtype(other_dtype)
    assert torch.equal(cpu.panel_linear(*[*arguments, torch.float32]), expected)


@needs_kernels
def test_another_default_device() -> None:
    case = site_case((2, 9, 24), (6, 4), torch.float32)
    arguments = linear_case((5, 40), 130, 4)
    image = torch.randn(2, 3, 130)
    expected = (
        *found_codes(4, case),
        cpu.panel_linear(*[*arguments, torch.float32]),
        cpu.branch_image(image),
    )
    with torch.device("meta"):
        found = (
            *found_codes(4, case),
            cpu.panel_linear(*[*arguments, torch.float32]),
            cpu.branch_image(image),
        )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_reference_under_another_default_dtype(other_dtype: torch.dtype) -> None:
    case = site_case((2, 9, 24), (6, 4), torch.float32)
    linear = [*linear_case((5, 40), 130, 4), torch.float32]
    state = torch.tensor([[1] * 257 + [0] * 770])  # 0.25024, in bfloat16 0.25
    edges = (0.2501, 0.7)

    def computed() -> list[torch.Tensor]:
        return [
            *expected_codes(4, case),
            reference.quantized_linear(*linear),
            reference.ratio_state(state, None, edges),
        ]

    expected = computed()
    torch.set_default_dtype(other_dtype)
    found = computed()
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
