"""What surrounds a call changes nothing that a compiled model answers, on any target."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from starquant_fx import compile as compile_model
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import InputError
from starquant_fx.kernels import cpu
from tests.compile_cases import CLOSE, fresh, small, texts
from tests.small_models import masked_ids, model
from tests.small_programs import distance, logits

TARGETS = ["reference", *(["cpu"] if cpu.unavailable() is None else [])]


@functools.cache
def compiled(target: str) -> CompiledModel:
    return fresh("llada-short", "star-w4a4", target=target)


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_a_compilation_and_of_a_later_capture(dtype: torch.dtype) -> None:
    ids, keep = masked_ids("odd", (2, 9), 0.5), torch.ones(2, 9, dtype=torch.long)
    keep[0, :3] = 0
    one = fresh("odd", "quarot+center-w4a4")
    expected = logits(one, ids), one(ids, attention_mask=keep).logits
    later = fresh("odd", "quarot+center-w4a4")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        other = fresh("odd", "quarot+center-w4a4")
        found = logits(other, ids), later(ids, attention_mask=keep).logits
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("recipe", ["rtn-w4a4", "quarot+center-w4a4"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_embedding_that_is_not_finite(target: str, recipe: str, bad: float) -> None:
    own = copy.deepcopy(model("odd"))
    one = compile_model(own, small(recipe), calibration=texts("odd"), target=target)
    ids = masked_ids("odd", (3, 9), 0.5)
    expected = logits(one, ids)
    row = int(ids[1, 4])
    with torch.no_grad():
        own.get_parameter("model.transformer.wte.weight")[row] = bad
    with pytest.raises(InputError, match="a site cannot quantize its input"):
        logits(one, ids)
    with pytest.raises(InputError, match="a site cannot quantize its input"):
        one.generate(ids, steps=1, gen_length=4, block_length=4)
    other = ids.masked_fill(ids == row, int(ids[ids != row][0]))
    assert logits(one, other).isfinite().all()
    assert expected.isfinite().all()


@pytest.mark.parametrize("target", TARGETS)
def test_the_number_of_kernel_threads(target: str) -> None:
    one, ids = compiled(target), masked_ids("llada", (3, 19), 0.5)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 2, 1):
            torch.set_num_threads(threads)
            found.append(logits(one, ids))
    finally:
        torch.set_num_threads(before)
    # Torch's own sums may be split otherwise, and codes flip; the kernels' are the same, see their tests.
    assert all(distance(one, found[0]) < CLOSE for one in found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(0, 9), (2, 0), (0, 0)])
def test_no_tokens(target: str, shape: tuple[int, int]) -> None:
    one = compiled(target)
    ids = torch.zeros(shape, dtype=torch.long)
    full = logits(one, masked_ids("llada", (2, 9), 0.5))
    assert logits(one, ids).shape == (*shape, full.shape[-1])
