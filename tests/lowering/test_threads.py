"""Calls from several threads at once, the first ones included, and any number of kernel threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from starquant_fx.compiled import CompiledModel
from starquant_fx.kernels import cpu
from tests.compile_cases import fresh
from tests.small_models import masked_ids

TARGETS = ["reference", *(["cpu"] if cpu.unavailable() is None else [])]
THREADS = 4
IDS = masked_ids("odd", (3, 9), 0.5)
KEEP = torch.ones(3, 9, dtype=torch.long).index_fill(1, torch.arange(3), 0)
ROWS = torch.tensor([4, 13, 26])


def together(*calls: Callable[[], Tensor]) -> list[Tensor]:
    """What calls return that are made at the same time, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def work(call: Callable[[], Tensor]) -> Tensor:
        barrier.wait()
        with torch.no_grad():
            return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(work, calls))


def kinds_of_calls(one: CompiledModel) -> list[Callable[[], Tensor]]:
    """A plain call, a padded one, and both for some rows only."""
    return [
        lambda: one(IDS).logits,
        lambda: one(IDS, attention_mask=KEEP).logits,
        lambda: one.logits_at(ROWS, IDS),
        lambda: one.logits_at(ROWS, IDS, attention_mask=KEEP),
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_first_calls_of_one_kind(target: str) -> None:
    one = fresh("odd", "rtn-w4a4", target=target)
    found = together(*[lambda: one(IDS, attention_mask=KEEP).logits] * THREADS)
    expected = one(IDS, attention_mask=KEEP).logits
    assert all(torch.equal(logits, expected) for logits in found)
    assert len(one._variants) == 1


def test_first_calls_of_every_kind_then_warm_ones() -> None:
    one, alone = (fresh("odd", "quarot+center-w4a4") for _ in range(2))
    expected = [call() for call in kinds_of_calls(alone)]
    for _ in range(3):
        found = together(*kinds_of_calls(one), *kinds_of_calls(one))
        assert all(torch.equal(a, b) for a, b in zip(found, [*expected, *expected], strict=True))
    assert (len(one._variants), len(one._at_rows)) == (1, 2)


def test_first_calls_of_several_models() -> None:
    models = [fresh("odd", "rtn-w8a8") for _ in range(2)]
    found = together(*[lambda m=m: m(IDS, attention_mask=KEEP).logits for m in models])
    expected = models[0](IDS, attention_mask=KEEP).logits
    assert all(torch.equal(logits, expected) for logits in found)
