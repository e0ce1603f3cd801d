"""``generate_until``: the published samplers' texts, cut where the task says, in any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import starquant_fx
from starquant_fx.errors import InputError
from starquant_fx.integrations.harness.generation import Generator, cut, until_strings
from starquant_fx.integrations.harness.requests import Fitting
from tests import small_models
from tests.integrations.harness_cases import tokenizer


def generator(kind: str = "llada", longest: int | None = 64, **options: Any) -> Generator:
    fitting = Fitting(longest, small_models.MASK[kind])
    return Generator(small_models.model(kind), tokenizer(kind), fitting, **options)


PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12], [13, 14, 15, 16, 17], [18]]


@pytest.mark.parametrize(
    ("text", "until", "left"),
    [
        ("one two", [], "one two"),
        ("one two", ["x"], "one two"),
        ("one\ntwo\nthree", ["\n"], "one"),
        ("one two three", ["three", "two"], "one "),
        ("two", ["two"], ""),
        ("two", [""], "two"),
    ],
)
def test_texts_end_before_the_first_stop(text: str, until: list[str], left: str) -> None:
    assert cut(text, until) == left


def test_stops_are_a_text_or_a_list_or_absent() -> None:
    assert until_strings({"until": "a"}) == ["a"]
    assert until_strings({"until": ["a", "b"]}) == ["a", "b"]
    assert until_strings({}) == []


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_texts_are_the_published_samplers(kind: str) -> None:
    own: dict[str, Any] = {"gen_length": 8, "block_length": 8}
    if kind == "dream":
        own = {"max_new_tokens": 8, "alg": "entropy"}
    prompt = torch.tensor([PROMPTS[0]])
    ids = starquant_fx.generate(small_models.model(kind), prompt, steps=4, **own)
    expected = ids[0, 3:].tolist()
    end = expected.index(0) if 0 in expected else len(expected)
    of = generator(kind, gen_length=8, steps=4)
    assert dict(of.generate(PROMPTS[:1], [{}])) == {0: tokenizer(kind).decode(expected[:end])}


@pytest.mark.parametrize("kind", ["llada", "dream"])
@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": 5, "padding": False}])
def test_batches_do_not_change_texts(kind: str, options: dict[str, Any]) -> None:
    asked = [{"until": ["w9 "]}] * len(PROMPTS)
    alone = dict(generator(kind, batch_size=1, gen_length=6).generate(PROMPTS, asked))
    assert dict(generator(kind, gen_length=6, **options).generate(PROMPTS, asked)) == alone
    assert sorted(alone) == list(range(len(PROMPTS)))


def test_a_request_may_ask_for_its_own_arguments() -> None:
    of = generator(gen_length=8, steps=8, cfg_scale=0.5)
    assert of.arguments({"max_gen_toks": 5, "until": ["a"]}) == {
        **{"gen_length": 8, "steps": 8, "block_length": 8},
        **{"temperature": 0.0, "cfg_scale": 0.5},
    }
    own = {"gen_length": 4, "steps": 2, "block_length": 2, "remasking": "random"}
    assert of.arguments(own) == {**own, "temperature": 0.0, "cfg_scale": 0.5}
    assert generator().arguments({"max_gen_toks": 5})["gen_length"] == 5
    assert generator(longest=None).arguments({})["gen_length"] == 256


def test_temperature_counts_only_where_sampling_is_asked_for() -> None:
    of = generator(gen_length=4)
    assert of.arguments({"temperature": 0.7, "do_sample": False})["temperature"] == 0
    assert of.arguments({"temperature": 0.7, "do_sample": True})["temperature"] == 0.7
    assert of.arguments({"temperature": 0.7})["temperature"] == 0.7
    hot = [{"temperature": 1.0, "do_sample": True}]
    first = dict(of.generate(PROMPTS[:1], hot))
    torch.rand(7)
    assert dict(of.generate(PROMPTS[:1], hot)) == first


def test_long_prompts_lose_their_beginning_and_are_counted() -> None:
    long = list(range(3, 80))
    of = generator(gen_length=8)
    text = dict(of.generate([long, [5]], [{}, {}]))[0]
    assert of.fitting.truncated == 1
    assert text == dict(generator(gen_length=8).generate([long[-56:]], [{}]))[0]


def test_a_text_that_leaves_no_room_for_a_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit the model"):
        dict(generator(gen_length=64).generate(PROMPTS, [{}] * 5))


def test_arguments_of_no_sampler_are_refused() -> None:
    with pytest.raises(InputError, match="unknown generation argument"):
        dict(generator(gen_length=4).generate(PROMPTS[:1], [{"remaskin": "random"}]))
    with pytest.raises(InputError, match="cfg_scale"):
        dict(generator("dream", gen_length=4, cfg_scale=1.0).generate(PROMPTS[:1], [{}]))


def test_work_is_counted() -> None:
    of = generator(gen_length=8, steps=4)
    assert of.work([[1] * 5, [1] * 100], [{}, {"steps": 2}]) == (6, 4 * 13 + 2 * 64)
