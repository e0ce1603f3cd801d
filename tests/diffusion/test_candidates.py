"""A generation that does not wait for its device: the same text, and nothing is read back inside a block."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from starquant_fx.arguments import bind
from starquant_fx.diffusion import (
    candidates,
    dream,
    dream_generate,
    filters,
    llada_generate,
    reveal,
)
from starquant_fx.errors import InputError, StarQuantError
from tests.diffusion.fakes import EOT, MASK, PROMPT, Denoiser

OPTIONS: dict[str, Any] = {"steps": 8, "gen_length": 16, "block_length": 8}
DREAM: dict[str, Any] = {"steps": 8, "max_new_tokens": 16}
TWO = torch.cat([PROMPT, PROMPT.flip(1)])
GREEDY_DREAM: list[dict[str, Any]] = [
    {"alg": "origin"},
    {"alg": "maskgit_plus"},
    {"alg": "topk_margin"},
    {"alg": "entropy"},
    {"alg": "entropy", "top_k": 3},
    {"alg": "maskgit_plus", "top_p": 0.7},
]
WAITS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"),
    "lift_fresh",  # of what is then copied to the device
)
"""Operators that make the host wait for a device."""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samplers do what they do where looking at values would make the host wait."""
    for module in (candidates, dream, filters, reveal):
        monkeypatch.setattr(module, "may_look", lambda device: False)


DEVICE = torch.device("cuda")
SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llada": (llada_generate, OPTIONS),
    "dream": (dream_generate, DREAM),
}


def states(options: dict[str, Any], prompt: Tensor, kind: str = "llada") -> Tensor:
    seen: list[Tensor] = []
    sampler, usual = SAMPLERS[kind]
    sampler(
        Denoiser(kind).eval(),
        prompt,
        on_step=lambda step, total, ids, confidence: seen.extend((ids, confidence)),
        **{**usual, "generator": torch.Generator().manual_seed(2), **options},
    )
    return torch.stack([x.double() for x in seen])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"remasking": "random"},
        {"cfg_scale": 0.5},
        {"logits_eos_inf": True},
        {"confidence_eos_eot_inf": True, "eot_id": EOT},
        {"steps": 32},
    ],
    ids=str,
)
def test_the_text_is_the_same(options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    prompt = PROMPT.clone()
    prompt[:, 1] = MASK  # a candidate of every block
    expected = states(options, prompt)
    request.getfixturevalue("elsewhere")
    assert torch.equal(states(options, prompt), expected)


@pytest.mark.parametrize("options", GREEDY_DREAM, ids=str)
@pytest.mark.parametrize("uneven", [False, True])
def test_the_text_of_dream_is_the_same(
    options: dict[str, Any],
    uneven: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = TWO.clone()
    if uneven:
        prompt[0, 1:] = (
            MASK  # the sampler then puts masks over text of the other row, where is up to topk
        )
        monkeypatch.setattr(reveal, "may_look", lambda device: False)
    if options["alg"] == "origin":  # as many random numbers as there are rows
        options = {**options, "steps": 1}
    expected = states(options, prompt, "dream")
    request.getfixturevalue("elsewhere")
    assert torch.equal(states(options, prompt, "dream"), expected)


@pytest.mark.usefixtures("elsewhere")
def test_origin_reveals_every_mask_with_the_share_of_its_step() -> None:
    ids = states({"alg": "origin", "eps": 0.0, "steps": 4, "max_new_tokens": 20}, TWO, "dream")[::2]
    left = (ids == MASK).sum((1, 2)).tolist()
    assert left == sorted(left, reverse=True)
    assert left[0] > left[2] > left[3] == 0


@pytest.mark.usefixtures("elsewhere")
def test_draws_follow_their_probabilities() -> None:
    """Without replacement, as ``torch.multinomial`` draws; shares are off by 3.5 standard errors at most."""
    weights = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    source = torch.Generator().manual_seed(3)
    order = filters.draw_order(weights.log().expand(20_000, 5), None, source)
    first, second = (order[:, i].bincount(minlength=5) / len(order) for i in (0, 1))
    chance = weights / 10
    torch.testing.assert_close(first, chance, atol=0.0125, rtol=0)
    after = sum(
        chance[i] * chance.index_fill(0, torch.tensor(i), 0) / (1 - chance[i]) for i in range(4)
    )
    assert isinstance(after, Tensor)
    torch.testing.assert_close(second, after, atol=0.0125, rtol=0)
    assert (order[:, 4] == 4).all(), "what has no probability comes last"
    one = filters.draw_order(weights.log().expand(20_000, 5), 1, torch.Generator().manual_seed(3))
    assert torch.equal(one, order[:, :1])


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("alg", ["entropy", "maskgit_plus"])
def test_small_alg_temp_leaves_the_prompt_alone(alg: str) -> None:
    for seed in range(10):
        source = torch.Generator().manual_seed(seed)
        given = {"alg": alg, "temperature": 0.6, "alg_temp": 0.002, "generator": source}
        ids = states(given, TWO, "dream")[::2]
        assert (ids[..., : TWO.shape[1]] == TWO).all()
        assert not (ids[-1] == MASK).any()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "options", [{}, {"alg_temp": 0.5}, {"top_p": 0.9, "alg_temp": 0.3}], ids=str
)
def test_drawn_positions_and_tokens_finish_the_text(options: dict[str, Any]) -> None:
    given = {"alg": "entropy", "temperature": 0.6, **options}
    ids = states(given, TWO, "dream")[::2]
    left = (ids == MASK).sum(2)
    assert torch.equal(left[:, 0], left[:, 1])
    assert not left[-1].any()
    assert not torch.equal(
        ids, states({**given, "generator": torch.Generator().manual_seed(5)}, TWO, "dream")[::2]
    )


@pytest.mark.parametrize("looking", [True, False])
def test_a_row_without_masks_is_refused_where_positions_are_drawn(
    looking: bool, request: pytest.FixtureRequest
) -> None:
    if not looking:
        request.getfixturevalue("elsewhere")
    prompt = torch.full((2, 12), 3)
    prompt[0, 1:] = MASK
    with pytest.raises(InputError, match="left to draw from"):
        states({"alg": "entropy", "alg_temp": 0.5, "max_new_tokens": 1}, prompt, "dream")


class Waits(TorchDispatchMode):
    """Counts what makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        index = func.__name__.startswith("index") and args[1]
        by_mask = isinstance(index, list | tuple) and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in index
        )
        self.count += func.__name__.split(".")[0] in WAITS or by_mask
        return func(*args, **(kwargs or {}))


def waits_by_step(kind: str = "llada", **options: Any) -> list[int]:
    """How often the host waits in the steps but the first, of LLaDA's first block."""
    counts: list[int] = []
    sampler, usual = SAMPLERS[kind]
    short = {"gen_length": 8} if kind == "llada" else {}
    with Waits() as waits:
        sampler(
            Denoiser(kind).eval(),
            PROMPT,
            on_step=lambda *step: counts.append(waits.count),
            **{**usual, **short, **options},
        )
    return [after - before for before, after in itertools.pairwise(counts)]


def test_the_host_waits_for_nothing_inside_a_block(request: pytest.FixtureRequest) -> None:
    assert all(waits_by_step()), "on the CPU it looks at values"
    request.getfixturevalue("elsewhere")
    for options in ({}, {"confidence_eos_eot_inf": True, "eot_id": EOT}, {"cfg_scale": 0.5}):
        assert len(found := waits_by_step("llada", **options)) == 7
        assert not any(found), options


def test_the_host_waits_for_nothing_in_dream(request: pytest.FixtureRequest) -> None:
    assert all(waits_by_step("dream")), "on the CPU it looks at values"
    request.getfixturevalue("elsewhere")
    drawing: dict[str, Any] = {"alg": "entropy", "temperature": 0.5, "alg_temp": 0.5, "top_p": 0.9}
    for options in (*GREEDY_DREAM, drawing):
        assert len(found := waits_by_step("dream", **options)) == 7
        assert not any(found), options


@pytest.mark.usefixtures("elsewhere")
def test_nan_is_refused_at_the_end_and_its_step_is_named() -> None:
    model = Denoiser("llada").eval()
    with torch.no_grad():
        model.table[5, MASK, 0] = torch.nan
    with pytest.raises(StarQuantError, match="contain NaN") as refusal:
        llada_generate(model, PROMPT, **OPTIONS)
    assert refusal.value.where == "denoising step 1"


def test_what_other_rows_hold_is_not_looked_at() -> None:
    watch, mask = candidates.NumberWatch(DEVICE), torch.tensor([[True, False, True]])
    values = torch.tensor([1.0, 2.0, torch.nan])
    watch.see(1, values, mask, torch.tensor([0, 2, 1]))
    watch.check()
    watch.see(2, values, mask, torch.tensor([1, 0, 2]))
    with pytest.raises(StarQuantError, match="contain NaN") as refusal:
        watch.check()
    assert refusal.value.where == "denoising step 2"


def test_masks_and_states_on_a_device_are_bound_without_a_look() -> None:
    """On tensors without values, of which nothing can be read."""
    ids = torch.zeros(2, 5, dtype=torch.long, device="meta")

    def forward(input_ids: Tensor, attention_mask: Tensor | None = None) -> None: ...

    given = {"attention_mask": ids, "token_state": ids}
    bound = bind(inspect.signature(forward), None, (ids,), given)
    assert list(bound) == ["input_ids", "attention_mask", "token_state"]
