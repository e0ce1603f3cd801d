"""What surrounds a call changes nothing that a compiled model answers, on any target."""

from __future__ import annotations

import functools

import pytest
import torch

from starquant_fx.compiled import CompiledModel
from starquant_fx.kernels import cpu
from tests.compile_cases import fresh
from tests.small_models import masked_ids
from tests.small_programs import logits

TARGETS = ["reference", *(["cpu"] if cpu.unavailable() is None else [])]


@functools.cache
def compiled(target: str) -> CompiledModel:
    return fresh("llada", "star-w4a4", target=target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype(target: str, dtype: torch.dtype) -> None:
    one, ids = compiled(target), masked_ids("llada", (3, 9), 0.5)
    expected = logits(one, ids)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = logits(one, ids)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_the_default_device(target: str) -> None:
    one, ids = compiled(target), masked_ids("llada", (3, 9), 0.5)
    expected = logits(one, ids)
    with torch.device("meta"):
        found = logits(one, ids)
    assert torch.equal(found, expected)
