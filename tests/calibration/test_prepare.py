from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from starquant_fx.calibration.data import CalibrationData
from starquant_fx.calibration.fit_cache import FitCache
from starquant_fx.calibration.prepare import prepare
from starquant_fx.errors import CalibrationError, InputError
from starquant_fx.recipe import CalibrationOptions
from tests.small_models import MASK, model

OPTIONS = CalibrationOptions(samples=6, length=12, rollout_steps=1)
NO_MASKS = CalibrationOptions(samples=6, length=12, rollout_steps=0)
PAD = 156
"""Of the goldens."""


class Words:
    """A tokenizer: a word is its length."""

    eos_token_id: int | None = 2
    sep_token_id: int | None = 3

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [len(word) + 10 for word in text.split()]}


def prepared(
    calibration: Any, options: CalibrationOptions = OPTIONS, **other: Any
) -> CalibrationData:
    arguments = {"tokenizer": None, "mask_token_id": MASK["llada"], **other}
    kind = arguments.pop("kind", "llada")
    return prepare(model(kind), calibration, options=options, **arguments)


def unmasked(data: CalibrationData, rows: Tensor) -> bool:
    """Whether every state is one of the rows with masks put on it."""
    mask = MASK["llada"]
    return all(
        any(bool(((row == r) | (row == mask)).all()) for r in rows)
        for batch in data.batches
        for row in batch
    )


def test_ids_become_states_of_the_same_texts() -> None:
    ids = torch.arange(60).view(6, 10)
    data = prepared(ids, NO_MASKS)
    assert [b.shape for b in data.batches] == [(6, 10)]
    assert unmasked(data, ids)
    masks = (data.batches[0] == MASK["llada"]).sum(1)
    assert sorted(masks.tolist()) == [1, 2, 4, 6, 8, 9]
    again = prepared(ids, NO_MASKS)
    assert torch.equal(data.batches[0], again.batches[0])


def test_padding_is_stripped_and_rows_are_cut_to_the_length_that_keeps_most() -> None:
    ids = torch.arange(48).view(6, 8)
    ids[0, :3] = PAD
    ids[1, 5:] = PAD
    ids[2, 4] = PAD  # inside: the model's own end of text, kept
    ids[3] = PAD  # nothing left
    data = prepared(ids, NO_MASKS)
    assert [tuple(b.shape) for b in data.batches] == [(5, 5)]
    assert unmasked(data, torch.cat([ids[:1, 3:], ids[[1, 2, 4, 5], :5]]))
    ids[0] = PAD
    assert [tuple(b.shape) for b in prepared(ids, NO_MASKS).batches] == [(3, 8)]


def test_rows_of_many_lengths_stay_stratified() -> None:
    ids = torch.arange(160).view(8, 20) % 100
    for row in range(8):
        ids[row, 20 - row :] = PAD
    (states,) = prepared(ids, NO_MASKS).batches
    shares = (states == MASK["llada"]).float().mean(1).sort().values
    assert float(shares[0]) < 0.25 < 0.75 < float(shares[-1])


def test_no_more_sequences_are_used_than_asked_for() -> None:
    assert prepared(torch.ones(50, 4, dtype=torch.long)).tokens == 24


def test_texts_are_packed_into_segments_of_one_length() -> None:
    data = prepared(["a bb ccc"] * 30, NO_MASKS, tokenizer=Words())
    (batch,) = data.batches
    assert batch.shape == (6, 12)
    period = torch.tensor([11, 12, 13, 2]).repeat(3)
    assert unmasked(data, torch.stack([period.roll(i) for i in range(4)]))


def test_short_texts_give_one_short_segment() -> None:
    (batch,) = prepared(["a bb", "ccc"], tokenizer=Words()).batches
    assert batch.shape == (1, 5)


def test_nothing_given_means_the_own_generations_of_the_model() -> None:
    (batch,) = prepared(None).batches
    assert batch.shape == (6, 12)
    masks = (batch == MASK["llada"]).sum(1)
    assert sorted(masks.tolist()) == [1, 3, 5, 7, 9, 11]


def test_own_generations_are_no_longer_than_the_model_can_take() -> None:
    short = CalibrationOptions(samples=2, length=300, rollout_steps=0)
    (batch,) = prepared(None, short, kind="odd", mask_token_id=MASK["odd"]).batches
    assert batch.shape == (2, 64)


def test_a_state_input_gets_states_of_all_ratios() -> None:
    data = prepared(torch.arange(120).view(6, 20), mask_token_id=None)
    assert data.token_states is not None
    assert torch.equal(data.batches[0], torch.arange(120).view(6, 20))
    shares = data.token_states[0].float().mean(1).sort().values
    assert float(shares[0]) < 0.3 < 0.7 < float(shares[-1])
    for ids, states in data.chunks(4):
        assert states is not None
        assert states.shape == ids.shape


@pytest.mark.parametrize(
    "calibration", [[], [""], ["  ", "\n"], torch.zeros(0, 4).long(), torch.zeros(3, 0).long()]
)
def test_empty_calibration_is_refused(calibration: Any) -> None:
    with pytest.raises(CalibrationError) as caught:
        prepared(calibration, tokenizer=Words())
    assert "calibration" in str(caught.value)


def test_nothing_but_padding_is_refused() -> None:
    with pytest.raises(CalibrationError, match="empty"):
        prepared(torch.full((3, 4), PAD))


def test_texts_of_one_token_are_refused() -> None:
    for words in (["one"], ["one", ""]):
        with pytest.raises(CalibrationError, match="one token of them at most"):
            prepared(words, tokenizer=Words())


def test_texts_without_tokens_are_refused() -> None:
    class Silent(Words):
        eos_token_id = sep_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": []}

    with pytest.raises(CalibrationError, match="empty"):
        prepared(["words"], tokenizer=Silent())


def test_a_tokenizer_of_another_model_is_refused() -> None:
    class Large(Words):
        def __len__(self) -> int:
            return 5000

    class OtherMask(Words):
        mask_token_id = MASK["llada"] - 1

    for tokenizer, told in ((Large(), "5000 tokens"), (OtherMask(), "mask token")):
        with pytest.raises(InputError, match=told):
            prepared(["once upon a time"], tokenizer=tokenizer)


def test_texts_that_spell_the_mask_token_are_refused() -> None:
    class Spelling(Words):
        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [5, MASK["llada"], 6]}

    with pytest.raises(CalibrationError, match="spell the mask token"):
        prepared(["once upon a time"], tokenizer=Spelling())


def test_texts_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(CalibrationError, match="need a tokenizer") as caught:
        prepared(["once upon a time"])
    assert "LongTensor [N, L]" in str(caught.value)


@pytest.mark.parametrize("calibration", [[[1, 2, 3]], [1, 2], 7, ["text", None]])
def test_calibration_of_another_kind_is_refused(calibration: Any) -> None:
    with pytest.raises(CalibrationError, match="texts or token ids"):
        prepared(calibration, tokenizer=Words())


def test_one_text_is_not_taken_for_a_list_of_letters() -> None:
    (batch,) = prepared("a bb ccc", NO_MASKS, tokenizer=Words()).batches
    assert batch.shape == (1, 4)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[1, 160]]), "out of range"),
        (torch.tensor([[-1, 3]]), "out of range"),
        (torch.tensor([[0.5, 3.0]]), "wrong dtype"),
    ],
)
def test_ids_that_do_not_fit_the_vocabulary_are_refused(ids: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prepared(ids)
    assert caught.value.where == "calibration"


def test_ids_of_another_rank_are_refused() -> None:
    with pytest.raises(CalibrationError, match="wrong shape"):
        prepared(torch.arange(5))


def test_sequences_longer_than_the_model_can_take_are_refused() -> None:
    with pytest.raises(InputError, match="longer than the model's maximum") as caught:
        prepared(torch.ones(2, 65).long(), kind="odd", mask_token_id=MASK["odd"])
    assert "at most 64" in str(caught.value)


def test_a_model_without_a_configuration_can_be_calibrated() -> None:
    class Plain(nn.Module):
        def forward(self, input_ids: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 20))

    data = prepare(Plain(), torch.arange(12).view(3, 4), None, 15, OPTIONS)
    assert data.tokens == 12


def test_infinite_logits_are_refused() -> None:
    class Diverged(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return torch.full((*input_ids.shape, 20), torch.nan)

    for calibration in (None, torch.arange(12).view(3, 4)):
        with pytest.raises(CalibrationError, match="not finite"):
            prepare(Diverged(), calibration, None, 15, OPTIONS)


@pytest.mark.parametrize("given", [None, torch.randint(0, 50, (4, 12))])
def test_states_are_kept_and_not_rolled_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Tensor | None
) -> None:
    cache = FitCache(tmp_path)
    options = CalibrationOptions(samples=4, length=12, rollout_steps=2)

    def states(seed: int) -> Tensor:
        seeded = dataclasses.replace(options, seed=seed)
        return prepare(model("odd"), given, None, 60, seeded, cache).batches[0]

    first = states(0)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("starquant_fx.calibration.prepare.rollout", refuse)
    monkeypatch.setattr("starquant_fx.calibration.prepare.own_generations", refuse)
    assert torch.equal(states(0), first)
    with pytest.raises(AssertionError, match="made again"):
        states(1)
