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
from starquant_fx.diffusion import candidates, llada, llada_generate
from starquant_fx.errors import StarQuantError
from tests.diffusion.fakes import EOT, MASK, PROMPT, Denoiser

OPTIONS: dict[str, Any] = {"steps": 8, "gen_length": 16, "block_length": 8}
WAITS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"),
    "lift_fresh",  # of what is then copied to the device
)
"""Operators that make the host wait for a device."""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler does what it does where looking at values would make the host wait."""
    monkeypatch.setattr(llada, "row_capacity", lambda mask: int(mask.sum()))
    monkeypatch.setattr(llada, "NumberWatch", lambda device: candidates.NumberWatch(DEVICE))


DEVICE = torch.device("cuda")


def states(options: dict[str, Any], prompt: Tensor) -> Tensor:
    seen: list[Tensor] = []
    llada_generate(
        Denoiser("llada").eval(),
        prompt,
        on_step=lambda step, total, ids, confidence: seen.extend((ids, confidence)),
        **{**OPTIONS, "generator": torch.Generator().manual_seed(2), **options},
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


def waits_by_step(**options: Any) -> list[int]:
    """How often the host waits in the steps of the first block but the first step."""
    counts: list[int] = []
    with Waits() as waits:
        llada_generate(
            Denoiser("llada").eval(),
            PROMPT,
            on_step=lambda *step: counts.append(waits.count),
            **{**OPTIONS, "gen_length": 8, **options},
        )
    return [after - before for before, after in itertools.pairwise(counts)]


def test_the_host_waits_for_nothing_inside_a_block(request: pytest.FixtureRequest) -> None:
    assert all(waits_by_step()), "on the CPU it looks at values"
    request.getfixturevalue("elsewhere")
    for options in ({}, {"confidence_eos_eot_inf": True, "eot_id": EOT}, {"cfg_scale": 0.5}):
        assert len(found := waits_by_step(**options)) == 7
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
