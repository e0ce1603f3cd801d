from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from starquant_fx.diffusion import dream
from starquant_fx.diffusion.filters import keep_top_k, keep_top_p, sample_tokens
from tests import golden_data

QUIRK = "maskgit_uneven_batch"
CASES = [name for name in golden_data.case_names("dream") if name != QUIRK]
DETAILED = [c["name"] for c in golden_data.index("dream")["generate"] if "detail" in c]
MASK_ID = 158


def recorded(which: str, part: str) -> Tensor:
    return golden_data.tensors("dream")[f"gen/{which}/{part}"]


def run(model: Any, which: str, **changed: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Generates with the settings that were in force; returns final ids, history, confidences."""
    case = golden_data.case("dream", which)
    states: list[Tensor] = []
    confidences: list[Tensor] = []

    def keep(step: int, total: int, ids: Tensor, confidence: Tensor) -> None:
        states.append(ids)
        confidences.append(confidence)
        assert (step, total) == (len(states), case["effective"]["steps"])

    options = {
        **case["effective"],
        "mask_token_id": MASK_ID,
        "generator": golden_data.seed(case),
        **changed,
    }
    mask = recorded(which, "attention_mask") if case["attention_mask"] else None
    final = dream.dream_generate(model, recorded(which, "prompt"), mask, on_step=keep, **options)
    return final, torch.stack(states), torch.stack(confidences)


def before_steps(which: str) -> Tensor:
    """[steps, B, L]: the ids before each step."""
    history = recorded(which, "history")
    prompt = recorded(which, "prompt")
    start = torch.full_like(history[0], MASK_ID)
    start[:, : prompt.shape[1]] = prompt
    return torch.cat([start[None], history[:-1]])


@pytest.mark.parametrize("which", CASES)
def test_every_step_equals_published(which: str) -> None:
    final, states, _ = run(golden_data.model("dream"), which)
    assert torch.equal(states, recorded(which, "history"))
    assert final.tolist() == golden_data.case("dream", which)["final"]


@pytest.mark.parametrize("which", DETAILED)
def test_recorded_logits_give_recorded_draws(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Tensor, Tensor]] = []

    def observed(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        drawn.append(sample_tokens(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(dream, "sample_tokens", observed)
    replay = golden_data.Replay(recorded(which, "model_logits"))
    _, states, _ = run(replay, which)
    assert torch.equal(states, recorded(which, "history"))
    assert len(drawn) == len(replay.logits)
    for step, (confidence, tokens) in enumerate(drawn):
        assert torch.equal(tokens, recorded(which, f"sample/{step}/tokens"))
        expected = recorded(which, f"sample/{step}/confidence")
        torch.testing.assert_close(confidence, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("which", [w for w in DETAILED if "origin" in w or w == "all_defaults"])
def test_origin_reveals_where_the_recorded_uniform_is_small(which: str) -> None:
    _, _, confidences = run(golden_data.model("dream"), which)
    effective = golden_data.case("dream", which)["effective"]
    steps = effective["steps"]
    times = torch.linspace(1, effective["eps"], steps + 1)
    for step, before in enumerate(before_steps(which)):
        share = 1 - times[step + 1] / times[step] if step < steps - 1 else 1
        revealed = torch.zeros_like(before, dtype=torch.bool)
        revealed[before == MASK_ID] = recorded(which, f"rand/{step}") < share
        assert torch.equal(confidences[step] != -torch.inf, revealed)


def test_alg_temp_draws_columns_from_the_recorded_probabilities() -> None:
    which = "entropy_algtemp"
    _, states, confidences = run(golden_data.model("dream"), which)
    for step, before in enumerate(before_steps(which)):
        probabilities = (confidences[step] / 0.1).softmax(-1)
        expected = recorded(which, f"transfer/{step}/probs")
        torch.testing.assert_close(probabilities, expected, atol=5e-4, rtol=0)
        columns = (states[step] != before)[0].nonzero()[:, 0]
        drawn = recorded(which, f"transfer/{step}/index")[0].sort().values
        assert torch.equal(columns, drawn)


def test_uneven_rows_can_mask_fixed_columns_again() -> None:
    """The published behaviour, up to the choice among ties, which torch.topk does not define."""
    _, states, confidences = run(golden_data.model("dream"), QUIRK)
    expected = recorded(QUIRK, "history")
    assert torch.equal(states[:-1], expected[:-1])
    masks_before, masks_after = ((ids == MASK_ID).sum(1).tolist() for ids in expected[-2:])
    assert (masks_before, masks_after) == ([5, 2], [2, 1])
    # int(3.5) = 3 columns a row: the first row keeps 2 masks, the second re-masks a fixed column.
    assert torch.equal(states[-1][0], expected[-1][0])
    candidates = confidences[-1][1] != -torch.inf
    assert torch.equal(states[-1][1, candidates], expected[-1][1, candidates])
    assert (states[-1] == MASK_ID).sum(1).tolist() == masks_after


def test_global_generator_is_used_by_default() -> None:
    torch.manual_seed(golden_data.case("dream", "maskgit_algtemp")["manual_seed"])
    _, states, _ = run(golden_data.model("dream"), "maskgit_algtemp", generator=None)
    assert torch.equal(states, recorded("maskgit_algtemp", "history"))


def test_published_function_filters_with_top_k_50_unasked() -> None:
    """Its own defaults are not those of generation_config.json: without top_k other ids come."""
    assert "top_k" not in golden_data.case("dream", "all_defaults")["kwargs"]
    _, states, _ = run(golden_data.model("dream"), "all_defaults", top_k=None)
    assert not torch.equal(states, recorded("all_defaults", "history"))


def test_defaults_are_those_of_the_published_generation_config() -> None:
    published = json.loads((golden_data.FOLDER / "dream" / "generation_config.json").read_text())
    parameters = inspect.signature(dream.dream_generate).parameters
    for name in ("alg", "alg_temp", "eps", "steps", "temperature", "top_k", "top_p"):
        assert parameters[name].default == published[name], name


def test_max_length_counts_the_prompt_and_twenty_is_the_default() -> None:
    model, prompt = golden_data.model("dream"), torch.tensor([[1, 2, 3]])
    assert dream.dream_generate(model, prompt, steps=2, max_length=10).shape == (1, 10)
    assert dream.dream_generate(model, prompt, steps=2).shape == (1, 23)


def test_top_p_keeps_the_first_and_drops_after_the_sum_is_exceeded() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.97, 0.01, 0.01, 0.01]]).log()
    lowest = torch.finfo(torch.float32).min
    kept = keep_top_p(logits, 0.7) != lowest
    assert kept.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert (keep_top_p(logits, 1e-6) != lowest).sum(1).tolist() == [1, 1]


def test_top_k_keeps_ties_and_never_more_than_the_vocabulary() -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    lowest = torch.finfo(torch.float32).min
    assert (keep_top_k(logits, 2) != lowest).tolist() == [[True, True, True, False]]
    assert torch.equal(keep_top_k(logits, 9), logits)


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        ("probability", 0.7),
        ("margin", 0.5),
        ("negative_entropy", 0.7 * -0.356675 + 0.2 * -1.609438 + 0.1 * -2.302585),
    ],
)
def test_confidences_by_hand(confidence: str, expected: float) -> None:
    logits = torch.tensor([[0.1, 0.7, 0.2]]).log()
    sureness, tokens = sample_tokens(logits, confidence=confidence)
    assert tokens.tolist() == [1]
    assert sureness.item() == pytest.approx(expected, abs=1e-5)
