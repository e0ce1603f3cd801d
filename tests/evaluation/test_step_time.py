"""Every part of a step is timed, and timing changes nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from starquant_fx import compile as compile_model
from starquant_fx import generate
from starquant_fx.diffusion import candidates
from starquant_fx.evaluation import step_time
from starquant_fx.evaluation.step_time import StepTimes, timed_generation
from tests.small_models import masked_ids, model
from tests.small_programs import quick

OPTIONS: dict[str, Any] = {"steps": 4, "gen_length": 8, "block_length": 8}


def test_parts_of_a_compiled_models_step() -> None:
    low = compile_model(
        model("llada"), quick("star-w4a4"), calibration=masked_ids("llada", (4, 16), 0.0)
    )
    prompt = masked_ids("llada", (2, 6), 0.0)
    out, times = timed_generation(low, prompt, **OPTIONS)
    assert torch.equal(out, generate(low, prompt, **OPTIONS))
    assert times.steps == 3
    assert set(times.seconds) == {
        *step_time.INSIDE,
        *step_time.OUTSIDE,
    }
    assert min(times.seconds.values()) > 0
    assert times.first > 0
    assert 0 < times.outside < 1
    parts = [row[0][0] for row in times.sheet().rows]
    assert [part for part in parts if not part.startswith(" ")] == [
        *("network", "head", "sampler", "rest", "step", "head, sampler, rest")
    ]


def test_another_model_is_one_part() -> None:
    prompt = masked_ids("llada", (1, 6), 0.0)
    out, times = timed_generation(model("llada"), prompt, **OPTIONS)
    assert torch.equal(out, generate(model("llada"), prompt, **OPTIONS))
    assert set(times.seconds) == {step_time.WHOLE_NETWORK, step_time.SAMPLER, step_time.REST}


def test_the_sheet_by_hand() -> None:
    seconds = {"attention": 0.1, "linears": 0.2, "head": 0.06, "sampler": 0.03, "rest": 0.01}
    times = StepTimes(seconds, 4, 1.5)
    rows = [tuple(cell[0] for cell in row) for row in times.sheet().rows]
    assert rows == [
        ("network", "75.00", "75.0 %"),
        ("  linears", "50.00", "50.0 %"),
        ("  attention", "25.00", "25.0 %"),
        ("head", "15.00", "15.0 %"),
        ("sampler", "7.50", "7.5 %"),
        ("rest", "2.50", "2.5 %"),
        ("step", "100.00", "100.0 %"),
        ("head, sampler, rest", "25.00", "25.0 %"),
    ]
    assert times.outside == pytest.approx(0.25)
    assert times.sheet().caption.endswith("it took 1500.")


def test_each_part_gets_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, a sampler and a view that take known times on a clock of their own."""
    now = [0.0]

    def takes(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def later(*args: Any, **kwargs: Any) -> Any:
            now[0] += seconds
            return function(*args, **kwargs)

        return later

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    plain = model("llada")
    monkeypatch.setattr(plain, "forward", takes(1.0, plain.forward))
    monkeypatch.setattr(candidates, "require_numbers", takes(0.1, candidates.require_numbers))
    view = _View(takes(0.01, lambda *step: None))
    monkeypatch.setattr(step_time, "step_view", lambda *given: view)
    _, times = timed_generation(plain, masked_ids("llada", (1, 6), 0.0), **OPTIONS)
    assert times.first == pytest.approx(1.11)
    assert times.seconds == pytest.approx(
        {step_time.WHOLE_NETWORK: 3.0, step_time.SAMPLER: 0.3, step_time.REST: 0.03}
    )


class _View(contextlib.nullcontext[None]):
    """A view that calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def __call__(self, *step: Any) -> None:
        self._function(*step)


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps(steps: int) -> None:
    prompt = masked_ids("llada", (1, 6), 0.0)
    _, times = timed_generation(model("llada"), prompt, **{**OPTIONS, "steps": steps})
    assert times.steps == 1
    assert times.sheet().rows
