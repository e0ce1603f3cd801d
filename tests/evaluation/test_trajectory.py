import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from starquant_fx.api import compile as compile_model
from starquant_fx.diffusion import generate
from starquant_fx.errors import InputError
from starquant_fx.evaluation import trajectories
from starquant_fx.evaluation.replay import NOTHING, replays
from starquant_fx.sampling.arguments import sampler_arguments
from starquant_fx.sampling.rules import CONFIDENCE_OF
from tests.small_models import MASK, masked_ids, model

FULL = "full precision"


def prompts(kind: str) -> Tensor:
    return masked_ids(kind, (3, 5), ratio=0.0, seed=1)


def test_a_twin_does_the_same_and_fewer_bits_do_more_harm() -> None:
    ids = masked_ids("odd", (2, 9), 0.0)
    models: dict[str, Any] = {FULL: model("odd"), "twin": model("odd")}
    for name in ("rtn-w8a8", "rtn-w4a4"):
        models[name] = compile_model(model("odd"), name, calibration=ids)
    found = trajectories(models, prompts("odd"), new_tokens=10, steps=6)
    twin, fine, coarse = (found[name] for name in ("twin", "rtn-w8a8", "rtn-w4a4"))
    assert twin.committed.sum(0).tolist() == [10, 10, 10]
    assert torch.equal(twin.positions, twin.committed)
    assert torch.equal(twin.tokens, twin.committed)
    for figure in (twin.flips, twin.hidden, twin.attention, twin.apart):
        assert figure.eq(0).all()
    assert (fine.hidden.mean(-1) < coarse.hidden.mean(-1)).all()
    assert (fine.attention.mean(-1) < coarse.attention.mean(-1)).all()
    assert 0 <= fine.flips.mean() < coarse.flips.mean() <= 1
    assert (coarse.tokens <= coarse.positions).all()
    assert (coarse.positions <= coarse.committed).all()
    assert fine.hidden.shape == fine.attention.shape == (6, 1, 3)


@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_a_replay_of_full_precision_commits_what_its_sampler_did(kind: str) -> None:
    arguments = sampler_arguments(model(kind), 10, 6)
    result = generate(model(kind), prompts(kind), return_dict=True, progress=False, **arguments)
    assert result.states is not None
    assert result.confidences is not None
    (replay,) = replays({FULL: model(kind)}).values()
    before = result.sequences.clone()
    before[:, 5:] = MASK[kind]
    for after, confidence in zip(result.states, result.confidences, strict=True):
        changed = after != before
        seen = replay.at(
            before,
            confidence > -torch.inf,
            changed.sum(1),
            CONFIDENCE_OF[arguments.get("alg", "maskgit_plus")],
        )
        assert torch.equal(seen.commits, torch.where(changed, after, NOTHING))
        before = after


def test_other_tokens_at_the_same_positions_are_flips_of_tokens_alone() -> None:
    renamed = copy.deepcopy(model("odd"))
    head = renamed.get_submodule("model.transformer.ff_out")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(head.weight.roll(1, 0))  # token i is now called i + 1
    models = {FULL: model("odd"), "renamed": renamed}
    found = trajectories(models, prompts("odd"), new_tokens=8, steps=4)["renamed"]
    assert torch.equal(found.positions, found.committed)
    assert found.tokens.eq(0).all()
    assert found.flips.eq(1).all()
    assert found.hidden.eq(0).all()
    assert (found.apart[-1] > 0.5).all()


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(InputError, match="different numbers of layers"):
        trajectories({FULL: model("llada"), "odd": model("odd")}, prompts("odd"), steps=2)
    with pytest.raises(InputError, match="longer than the model's maximum"):
        trajectories({FULL: model("odd")}, prompts("odd"), new_tokens=500)
    with pytest.raises(InputError, match="there is no model 'full precision'"):
        trajectories({"odd": model("odd")}, prompts("odd"))
