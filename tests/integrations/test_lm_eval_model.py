"""The harness's model type ``starquant``."""

from __future__ import annotations

import importlib
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from starquant_fx.errors import InputError, StarQuantError
from tests import small_models
from tests.integrations.harness_cases import tokenizer, words

pytest.importorskip("lm_eval", reason="the lm-evaluation-harness is not installed (extra 'eval')")

from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import CachingLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import get_model  # pyright: ignore[reportMissingImports]

from starquant_fx.integrations.harness.requests import windows
from starquant_fx.integrations.lm_eval import StarQuantLM


def lm(kind: str = "llada", **options: Any) -> StarQuantLM:
    return StarQuantLM(small_models.model(kind), tokenizer(kind), mc_num=16, **options)


def requests(kind: Any, *texts: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, text, i) for i, text in enumerate(texts)]


PAIRS = [("w3 w4", " w5 w6"), ("w7", " w8"), ("w3 w4 w9 w10", " w11 w12 w13"), ("w7", " w9")]


def test_the_harness_finds_it_by_name_and_by_entry_point() -> None:
    assert get_model("starquant") is StarQuantLM
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    place = project["entry-points"]["lm_eval.models"]["starquant"]
    module, _, name = place.partition(":")
    assert getattr(importlib.import_module(module), name) is StarQuantLM


def test_the_harness_makes_one_from_its_arguments() -> None:
    made = StarQuantLM.create_from_arg_string(
        "pretrained=llada-tiny,mc_num=4,cfg=0.5,seed=3", {"batch_size": "auto"}
    )
    assert made.get_model_info() == {
        **{"recipe": None, "mc_num": 4, "mask_seed": 3, "cfg": 0.5},
        "truncated_requests": 0,
    }
    assert made.max_length == 512
    (result,) = made.loglikelihood(requests("loglikelihood", ("Once upon", " a time")))
    assert -100 < result[0] < 0


def test_results_come_in_the_requests_order() -> None:
    together = lm().loglikelihood(requests("loglikelihood", *PAIRS))
    alone = [lm().loglikelihood(requests("loglikelihood", pair))[0] for pair in PAIRS]
    assert [r[0] for r in together] == pytest.approx([r[0] for r in alone], abs=1e-4)
    asked = [
        ("w3 w4", {"max_gen_toks": 4}),
        ("w5", {"max_gen_toks": 4}),
        ("w6 w7 w8", {"max_gen_toks": 4}),
    ]
    texts = lm().generate_until(requests("generate_until", *asked))
    assert texts == [lm().generate_until(requests("generate_until", one))[0] for one in asked]


def test_the_harness_caches_results(tmp_path: Path) -> None:
    model = lm()
    cached = CachingLM(model, str(tmp_path / "cache.db"))
    first = cached.loglikelihood(requests("loglikelihood", *PAIRS))
    rolled = cached.loglikelihood_rolling(requests("loglikelihood_rolling", ("w3 w4 w5",)))
    model.answers = None  # type: ignore[assignment] # nothing can be computed any more
    assert cached.loglikelihood(requests("loglikelihood", *PAIRS[::-1])) == first[::-1]
    assert cached.loglikelihood_rolling(requests("loglikelihood_rolling", ("w3 w4 w5",))) == rolled


def test_an_empty_context_stands_for_the_beginning_of_a_text() -> None:
    empty, named = lm().loglikelihood(requests("loglikelihood", ("", "w5 w6"), ("<s>", " w5 w6")))
    assert empty[0] == pytest.approx(named[0], abs=1e-4)
    bare = tokenizer("llada", eos_token=None, bos_token=None)
    unable = StarQuantLM(small_models.model("llada"), bare)
    for kind, text in (("loglikelihood", ("", " w5")), ("generate_until", ("", {}))):
        with pytest.raises(InputError, match="a context is empty"):
            getattr(unable, kind)(requests(kind, text))


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("loglikelihood", ("w3", ""), "continuation is empty"),
        ("loglikelihood", ("", ""), "continuation is empty"),
        ("loglikelihood", ("w3", "w4 <mask>"), "contains the mask token"),
        ("loglikelihood", ("w3", " " + words(range(3, 67))), "does not fit the model"),
        ("loglikelihood_rolling", ("",), "text is empty"),
        ("generate_until", ("w3", {"max_gen_toks": 64}), "does not fit the model"),
    ],
)
def test_requests_that_cannot_be_served_are_refused_before_any_forward(
    kind: str, text: tuple[Any, ...], message: str
) -> None:
    model = lm(max_length=64)
    good = {"generate_until": ("w3", {"max_gen_toks": 4})}.get(kind, PAIRS[0][-len(text) :])
    object.__setattr__(model.answers.scorer, "model", None)
    object.__setattr__(model.generator, "model", SimpleNamespace(config=None))
    with pytest.raises(InputError, match=message):
        getattr(model, kind)(requests(kind, good, text))


def test_long_contexts_lose_their_beginning_and_are_counted() -> None:
    model = lm(max_length=20)
    long = words(range(3, 60))
    cut, short, whole = model.loglikelihood(
        requests(
            "loglikelihood",
            (long, " w70 w71"),
            (words(range(42, 60)), " w70 w71"),
            ("w3", " w4"),
        )
    )
    # The masks of two tokens are all of them, whatever the request's text.
    assert cut[0] == pytest.approx(short[0], abs=1e-4)
    assert whole[0] < 0
    assert model.get_model_info()["truncated_requests"] == 1


def test_rolling_sums_windows_that_predict_each_token_once() -> None:
    model = lm(max_length=8)
    text = words(range(3, 15))
    parts = windows(text, list(range(3, 15)), 1, model.fitting)
    assert [pair[1:] for pair in parts] == [
        ([1], [3, 4, 5, 6, 7, 8, 9]),
        ([7, 8, 9], [10, 11, 12, 13, 14]),
    ]
    (total,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    scores = dict(model.answers.score(parts)).values()
    assert total == pytest.approx(sum(score.log_likelihood for score in scores), abs=1e-4)
    assert math.isfinite(total)


def test_a_foreign_tokenizer_is_refused() -> None:
    odd = small_models.model("odd")
    with pytest.raises(InputError, match="does not match the model's vocabulary"):
        StarQuantLM(odd, tokenizer("llada"))
    with pytest.raises(InputError, match="different mask tokens"):
        StarQuantLM(small_models.model("llada"), tokenizer("odd"))
    with pytest.raises(InputError, match="needs a tokenizer"):
        StarQuantLM(small_models.model("llada"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mc_num": 0}, "mc_num"),
        ({"batch_size": 0}, "batch_size"),
        ({"cfg": -1.0}, "cfg"),
        ({"max_length": 10_000}, "max_length"),
        ({"recipe": "rtn-w4a4", "artifact": "a.safetensors"}, "exclude each other"),
        ({"recipe": "strar-w4a4"}, "unknown recipe"),
        ({"calibration": "nowhere.txt", "recipe": "rtn-w4a4"}, "cannot be read"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StarQuantError, match=message):
        StarQuantLM(small_models.model("llada"), tokenizer("llada"), **options)


def test_chat_templates_come_from_the_tokenizer_or_are_refused() -> None:
    turns = [{"role": "user", "content": "w3"}]
    with pytest.raises(InputError, match="no chat template"):
        lm().apply_chat_template(turns)
    speaking = tokenizer("llada", unk_token="w2")
    speaking.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    model = StarQuantLM(small_models.model("llada"), speaking)
    assert model.apply_chat_template(turns) == "user: w3 assistant:"
    begun = [*turns, {"role": "assistant", "content": "w4"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == "user: w3 assistant: w4"


def test_special_tokens_leave_the_texts() -> None:
    texts = lm(gen_length=8).generate_until(requests("generate_until", ("w3", {})))
    assert "<mask>" not in texts[0]
    assert lm().texts.without_specials("a<mask>b") == "ab"


def test_full_precision_and_low_bits_answer_alike(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(words(range(3, 140)))
    low = lm(recipe="rtn-w8a8", calibration=str(texts))
    full = lm().loglikelihood(requests("loglikelihood", *PAIRS))
    found = low.loglikelihood(requests("loglikelihood", *PAIRS))
    assert [r[0] for r in found] == pytest.approx([r[0] for r in full], rel=0.1)
    assert [r[0] for r in found] != [r[0] for r in full]
    assert low.get_model_info()["recipe"] == "rtn-w8a8"
