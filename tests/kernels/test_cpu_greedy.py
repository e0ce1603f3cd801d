"""The kernel of greedy choices against torch's softmax, bit for bit."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from starquant_fx.kernels import cpu, reference
from starquant_fx.operators import op

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
TYPES = (torch.bfloat16, torch.float32)
SAME_SUMS = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether torch adds up in vectors of sixteen, whose order the kernel follows; else last bits may differ."""


def rows(size: tuple[int, int], spread: float, dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(size, generator=g)).to(dtype)


def check(logits: Tensor) -> None:
    for by_probability in (False, True):
        found = cpu.greedy(logits, by_probability)
        expected = reference.greedy(logits, by_probability)
        for one, other in zip(found, expected, strict=True):
            if SAME_SUMS or one.dtype == torch.long:
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
            else:
                torch.testing.assert_close(one, other, equal_nan=True)


@given(
    size=st.tuples(
        st.integers(0, 40), st.one_of(st.integers(1, 70), st.sampled_from([999, 32000, 32007]))
    ),
    spread=st.sampled_from([0.0, 1e-3, 0.02, 1.0, 4.0, 60.0, 1e30]),
    hidden=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    dtype=st.sampled_from(TYPES),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_choices_and_probabilities_are_torchs(
    size: tuple[int, int], spread: float, hidden: float, dtype: torch.dtype, seed: int
) -> None:
    logits = rows(size, spread, dtype, seed)
    g = torch.Generator().manual_seed(seed)
    check(logits.masked_fill(torch.rand(size, generator=g) < hidden, -torch.inf))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("columns", [5, 16, 31, 100, 2049])
def test_every_bit_of_many_rows(dtype: torch.dtype, columns: int) -> None:
    """One rounding that differs in a few thousand would show."""
    for spread in (0.02, 1.0, 5.0):
        check(rows((4000, columns), spread, dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("columns", [1, 7, 16, 33, 1000])
def test_ties(dtype: torch.dtype, columns: int) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randint(-1, 2, (200, columns), generator=g).to(dtype)
    check(logits)
    check(logits * 0.004)  # probabilities tie where logits do not
    check(torch.where(logits == 0, -0.0, 0.0).to(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("column", [0, 15, 16, 39])
def test_what_is_not_finite(dtype: torch.dtype, bad: float, column: int) -> None:
    logits = rows((6, 40), 2.0, dtype)
    logits[4, column] = bad
    check(logits)
    largest, tokens, _ = cpu.greedy(logits, False)
    assert tokens[4] == column
    assert torch.equal(largest.isfinite(), torch.arange(6) != 4)


def test_the_probability_is_right() -> None:
    for dtype, error in ((torch.bfloat16, 2**-8), (torch.float32, 3e-6)):
        logits = rows((50, 32000), 3.0, dtype)
        expected = logits.double().softmax(-1).amax(-1)
        assert bool(((cpu.greedy(logits, False)[2] / expected - 1).abs() < error).all())


def test_strides_and_other_types() -> None:
    wide = rows((40, 60), 2.0, torch.float32)
    check(wide[:, 3:50])
    check(wide.T)
    check(wide.double())
    check(wide.half())
    check(wide[:0])


def test_any_number_of_threads_gives_the_same() -> None:
    logits = rows((37, 501), 2.0, torch.bfloat16)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            check(logits)
    finally:
        torch.set_num_threads(before)


def test_the_operator_runs_the_kernel_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = rows((9, 50), 2.0, torch.float32)
    expected = reference.greedy(logits, False)

    def refuse(*arguments: object) -> None:
        raise AssertionError("the reference ran")

    monkeypatch.setattr(reference, "greedy", refuse)
    found = op("greedy")(logits, False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_machine_without_kernels_runs_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = rows((9, 50), 2.0, torch.float32)
    module = importlib.import_module("starquant_fx.kernels.cpu.greedy")
    monkeypatch.setattr(module, "unavailable", lambda: "no compiler")
    monkeypatch.setattr(module, "call", None)
    check(logits)
