"""Every part of a step is timed, and timing changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from starquant_fx import compile as compile_model
from starquant_fx import generate
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
        *(step_time.LINEARS, step_time.TRANSFORMS, step_time.ATTENTION),
        *(step_time.OTHER, step_time.HEAD, step_time.SAMPLER),
    }
    assert min(times.seconds.values()) > 0


def test_another_model_is_one_part() -> None:
    prompt = masked_ids("llada", (1, 6), 0.0)
    out, times = timed_generation(model("llada"), prompt, **OPTIONS)
    assert torch.equal(out, generate(model("llada"), prompt, **OPTIONS))
    assert set(times.seconds) == {step_time.NETWORK, step_time.SAMPLER}


def test_the_sheet_by_hand() -> None:
    rows = StepTimes({"network": 0.3, "sampler": 0.1}, 4).sheet().rows
    assert rows[0] == (("network",), ("75.00",), ("75.0 %",))
    assert rows[-1] == (("step",), ("100.00",), ("100.0 %",))


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps(steps: int) -> None:
    prompt = masked_ids("llada", (1, 6), 0.0)
    _, times = timed_generation(model("llada"), prompt, **{**OPTIONS, "steps": steps})
    assert times.steps == 1
