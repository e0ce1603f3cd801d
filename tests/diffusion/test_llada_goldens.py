from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.diffusion.llada import gumbel_argmax, llada_generate
from starquant_fx.operators import op
from tests import golden_data

CASES = golden_data.case_names("llada")
DETAILED = [c["name"] for c in golden_data.index("llada")["generate"] if "detail" in c]
EOT_ID = 157


def recorded(which: str, part: str) -> Tensor:
    return golden_data.tensors("llada")[f"gen/{which}/{part}"]


def run(model: Any, which: str, **changed: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Generates as the case was recorded; returns final ids, the states and the confidences."""
    case = golden_data.case("llada", which)
    states: list[Tensor] = []
    confidences: list[Tensor] = []

    def keep(step: int, total: int, ids: Tensor, confidence: Tensor) -> None:
        states.append(ids)
        confidences.append(confidence)
        assert (step, total) == (len(states), case["kwargs"]["steps"])

    options = {
        **case["kwargs"],
        "mask_id": case["mask_id"],
        "eot_id": EOT_ID,
        "generator": golden_data.seed(case),
        **changed,
    }
    mask = options.pop(
        "attention_mask",
        recorded(which, "attention_mask") if case["attention_mask"] else None,
    )
    final = llada_generate(model, recorded(which, "prompt"), mask, on_step=keep, **options)
    return final, torch.stack(states), torch.stack(confidences)


@pytest.mark.parametrize("which", CASES)
def test_every_step_equals_published(which: str) -> None:
    final, states, _ = run(golden_data.model("llada"), which)
    assert torch.equal(states, recorded(which, "states"))
    assert final.tolist() == golden_data.case("llada", which)["final"]


@pytest.mark.parametrize("which", DETAILED)
def test_recorded_logits_give_recorded_states_and_confidences(which: str) -> None:
    replay = golden_data.Replay(recorded(which, "model_logits"))
    _, states, confidences = run(replay, which)
    assert replay.calls == len(replay.logits)
    assert torch.equal(states, recorded(which, "states"))
    expected = recorded(which, "confidence")
    assert torch.equal(confidences.isinf(), expected.isinf())
    torch.testing.assert_close(confidences, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("which", [w for w in DETAILED if "cfg" not in w])
def test_recorded_uniforms_give_recorded_tokens(which: str) -> None:
    """Token choice without any generator: only positions revealed by the step are known."""
    case = golden_data.case("llada", which)
    prompt = recorded(which, "prompt")
    length = recorded(which, "states").shape[-1]
    before = torch.full((len(prompt), length), case["mask_id"])
    before[:, : prompt.shape[1]] = prompt
    temperature = case["kwargs"]["temperature"]
    checked = 0
    for step, after in enumerate(recorded(which, "states")):
        logits = recorded(which, "model_logits")[step]
        if temperature:
            tokens = gumbel_argmax(logits, temperature, recorded(which, "uniform_f64")[step])
        else:
            tokens = op("greedy")(logits.flatten(0, 1), False)[1].view(before.shape)
        revealed = before != after
        assert torch.equal(tokens[revealed], after[revealed])
        checked += int(revealed.sum())
        before = after
    assert checked == case["kwargs"]["gen_length"]


@pytest.mark.parametrize("which", ["random_greedy", "random_temp"])
def test_random_remasking_ranks_by_the_recorded_uniforms(which: str) -> None:
    _, _, confidences = run(golden_data.model("llada"), which)
    ranked = confidences != -torch.inf
    assert torch.equal(confidences[ranked], recorded(which, "uniform_f32")[ranked])


def test_global_generator_is_used_by_default() -> None:
    torch.manual_seed(golden_data.case("llada", "temp_batch")["manual_seed"])
    _, states, _ = run(golden_data.model("llada"), "temp_batch", generator=None)
    assert torch.equal(states, recorded("temp_batch", "states"))


@pytest.mark.parametrize("which", ["cfg_greedy", "cfg_temp", "cfg_random"])
def test_guidance_needs_no_attention_mask(which: str) -> None:
    _, states, _ = run(golden_data.model("llada"), which, attention_mask=None)
    assert torch.equal(states, recorded(which, "states"))


def test_masks_in_the_prompt_compete_for_the_quota() -> None:
    final, _, _ = run(golden_data.model("llada"), "greedy_mask_in_prompt")
    assert (recorded("greedy_mask_in_prompt", "prompt") == 158).sum() == (final == 158).sum() == 2


def test_eos_can_be_forbidden_and_postponed() -> None:
    """The cases were recorded where the options matter: without them the ids differ."""
    for which, option in (
        ("logits_eos_inf", "logits_eos_inf"),
        ("conf_eos_eot_inf", "confidence_eos_eot_inf"),
        ("conf_eos_eot_inf_temp", "confidence_eos_eot_inf"),
    ):
        _, states, _ = run(golden_data.model("llada"), which, **{option: False})
        assert not torch.equal(states, recorded(which, "states"))
