"""The samplers of arrays against the recorded steps of the published code."""

from __future__ import annotations

from typing import Any

import pytest

from starquant_fx import runtime
from tests import golden_data
from tests.runtime.fakes import ForArrays, torch_numbers

EOT_ID, MASK_ID = 157, 158
QUIRK = "maskgit_uneven_batch"  # among equal confidences the published code takes the order of torch.topk


def run(name: str, which: str) -> tuple[list[Any], Any]:
    """The ids after every step, with the random numbers that the case was recorded with, and those recorded."""
    case, recorded = golden_data.case(name, which), golden_data.tensors(name)
    model = ForArrays(golden_data.model(name))
    model.config = model.model.config
    prompt = recorded[f"gen/{which}/prompt"].numpy()
    mask = recorded[f"gen/{which}/attention_mask"].numpy() if case["attention_mask"] else None
    numbers = torch_numbers(model, golden_data.seed(case), len(prompt))
    states: list[Any] = []
    common: dict[str, Any] = {
        "generator": numbers,
        "on_step": lambda step, total, ids, confidence: states.append(ids.tolist()),
    }
    if name == "llada":
        options = {**case["kwargs"], "mask_id": case["mask_id"], "eot_id": EOT_ID}
        runtime.llada_generate(model, prompt, mask, **options, **common)
        return states, recorded[f"gen/{which}/states"].tolist()
    options = {**case["effective"], "mask_token_id": MASK_ID}
    runtime.dream_generate(model, prompt, mask, **options, **common)
    return states, recorded[f"gen/{which}/history"].tolist()


@pytest.mark.parametrize("which", golden_data.case_names("llada"))
def test_every_step_of_llada_equals_published(which: str) -> None:
    states, expected = run("llada", which)
    assert states == expected


@pytest.mark.parametrize("which", [n for n in golden_data.case_names("dream") if n != QUIRK])
def test_every_step_of_dream_equals_published(which: str) -> None:
    states, expected = run("dream", which)
    assert states == expected
