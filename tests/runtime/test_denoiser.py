"""An exported model against the denoiser it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from starquant_fx import runtime
from starquant_fx.errors import InputError, StarQuantError
from tests.runtime.exports import write_export
from tests.runtime.fakes import LIMIT, MASK, VOCABULARY, ArrayDenoiser

IDS = np.array([[1, 2, MASK, MASK, 4], [3, 3, 5, MASK, 6]])
KEEP = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
ROWS = np.array([2, 3, 8])
GENERATION: dict[str, dict[str, Any]] = {
    "llada": {"steps": 4, "gen_length": 8, "block_length": 4},
    "Dream": {"steps": 4, "max_new_tokens": 8, "alg": "maskgit_plus"},
}
SAMPLERS: dict[str, Callable[..., Any]] = {
    "llada": runtime.llada_generate,
    "Dream": runtime.dream_generate,
}


def padding(kind: str) -> dict[str, Any]:
    if kind == "llada":
        return {"attention_mask": KEEP}
    keep = KEEP.astype(bool)
    positions = np.where(keep, keep.cumsum(1) - 1, 1)
    return {
        "attention_mask": keep[:, None, :, None] & keep[:, None, None, :],
        "position_ids": positions,
    }


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("head", ["logits", "row-logits", "tokens"])
@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_calls_compute_what_was_exported(
    tmp_path: Path, kind: str, head: str, external: bool
) -> None:
    model = ArrayDenoiser(kind)
    loaded = runtime.load(write_export(tmp_path / "x", model, head=head, external=external))
    assert (tmp_path / "x" / "model.onnx.data").exists() is external
    assert loaded.folder == tmp_path / "x"
    assert loaded.metadata.head == head
    for given in ({}, padding(kind)):
        expected = model(IDS, **given)
        rows = expected.reshape(-1, VOCABULARY)[ROWS]
        tokens, confidence = loaded.greedy_at(ROWS, IDS, **given)
        assert tokens.tolist() == rows.argmax(-1).tolist()
        chances = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
        np.testing.assert_allclose(confidence, chances.max(-1), rtol=1e-5)
        assert [str(each.dtype) for each in (tokens, confidence)] == ["int64", "float32"]
        if head != "tokens":
            np.testing.assert_allclose(loaded(IDS, **given), expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(
                loaded.logits_at(ROWS, IDS, **given), rows, rtol=1e-5, atol=1e-5
            )
            assert loaded.logits_at(ROWS[:0], IDS).shape == (0, VOCABULARY)
        assert [len(each) for each in loaded.greedy_at(ROWS[:0], IDS)] == [0, 0]


@pytest.mark.parametrize("head", ["logits", "row-logits", "tokens"])
@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_generation_is_the_samplers(tmp_path: Path, kind: str, head: str) -> None:
    model = ArrayDenoiser(kind)
    loaded = runtime.load(write_export(tmp_path, model, head=head))
    seen: list[tuple[int, int]] = []

    def watch(step: int, total: int, ids: NDArray[Any], confidence: NDArray[Any]) -> None:
        seen.append((step, total))
        assert ids.shape == confidence.shape
        ids[:] = 0  # changes nothing

    for mask in (None, KEEP):
        expected = SAMPLERS[kind](model, IDS, mask, **GENERATION[kind])
        got = loaded.generate(IDS, mask, on_step=watch, **GENERATION[kind])
        assert got.tolist() == expected.tolist()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


def test_a_text_is_continued_and_read(tmp_path: Path) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser()))
    ids = loaded.generate("one two three", **GENERATION["llada"])
    assert ids[:, :3].tolist() == [[1, 2, 3]]
    assert loaded.decode(ids).startswith("one two three")
    assert loaded.decode(ids[0]) == loaded.decode(ids)
    assert loaded.decode([]) == loaded.decode(ids[:, :0]) == loaded.decode(ids[0, :0]) == ""
    assert loaded.tokenizer.token_to_id("[MASK]") == MASK
    (tmp_path / "tokenizer.json").unlink()
    other = runtime.load(tmp_path, check=False)
    with pytest.raises(InputError, match="no tokenizer"):
        other.generate("one", **GENERATION["llada"])
    assert other.generate(np.array([[1, 2, 3]]), **GENERATION["llada"]).tolist() == ids.tolist()


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_a_seed_makes_sampling_repeatable(tmp_path: Path, kind: str) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser(kind)))
    options = {**GENERATION[kind], "temperature": 1.0}
    runs = [loaded.generate(IDS, seed=seed, **options).tolist() for seed in (5, 5, 6)]
    assert runs[0] == runs[1] != runs[2]
    generator = np.random.default_rng(5)
    assert loaded.generate(IDS, generator=generator, **options).tolist() == runs[0]


def test_defaults_of_the_export_stand_behind_the_callers(tmp_path: Path) -> None:
    defaults = {"steps": 2, "max_new_tokens": 4, "alg": "entropy"}
    loaded = runtime.load(
        write_export(tmp_path, ArrayDenoiser("Dream"), sampler_defaults=defaults, sampler=None)
    )
    assert loaded.generate(IDS).shape == (2, 9)
    assert loaded.generate(IDS, max_length=7).shape == (2, 7)
    assert loaded.generate(IDS, max_new_tokens=1).shape == (2, 6)


def test_a_model_without_a_mask_token_is_told_the_states(tmp_path: Path) -> None:
    model = ArrayDenoiser()
    loaded = runtime.load(write_export(tmp_path, model, state=True))
    state = (IDS == MASK).astype(np.int64)
    expected = model(IDS)
    expected[..., 0] += state
    np.testing.assert_allclose(loaded(IDS, token_state=state), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="token_state has a wrong form"):
        loaded(IDS)
    with pytest.raises(InputError, match="no usable mask_id"):
        loaded.generate(IDS, **GENERATION["llada"])
    model.table[:, MASK, 0] += 1
    expected = runtime.llada_generate(model, IDS, **GENERATION["llada"])
    got = loaded.generate(IDS, mask_id=MASK, **GENERATION["llada"])
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_without_a_mask_padding_is_refused(tmp_path: Path, kind: str) -> None:
    model = ArrayDenoiser(kind)
    loaded = runtime.load(write_export(tmp_path, model, masked=False))
    expected = SAMPLERS[kind](model, IDS, **GENERATION[kind])
    for mask in (None, np.ones_like(IDS)):
        assert loaded.generate(IDS, mask, **GENERATION[kind]).tolist() == expected.tolist()
    with pytest.raises(InputError, match="takes no attention_mask"):
        loaded.generate(IDS, KEEP, **GENERATION[kind])
    whole = np.ones((2, 1, 5, 5), bool)
    assert np.array_equal(loaded(IDS, whole), loaded(IDS))
    with pytest.raises(InputError, match="takes no attention_mask"):
        loaded(IDS, ~whole)
    for mask in (np.ones((7, 7)), np.ones((2, 1, 5, 4), bool), np.full((2, 5), "1"), KEEP.tolist()):
        with pytest.raises(InputError, match="attention mask") as caught:
            loaded(IDS, mask)
        assert caught.value.where == "attention_mask"


BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": IDS[0]}, "input_ids[None]"),
    ({"input_ids": IDS.tolist()}, "got: list"),
    ({"input_ids": IDS.astype(np.float32)}, "float32"),
    ({"input_ids": IDS.astype(bool)}, "bool"),
    ({"input_ids": IDS + VOCABULARY}, "expected: 0 to 11"),
    ({"input_ids": -IDS}, "token ids are out of range"),
    ({"input_ids": np.zeros((1, LIMIT + 1), int)}, "longer than the model's maximum"),
    ({"input_ids": np.zeros((0, 3), int)}, "the prompt is empty"),
    ({"attention_mask": KEEP[:, :4]}, "an array of shape [2, 5]"),
    ({"attention_mask": KEEP * 2}, "other values than 0 and 1"),
    ({"attention_mask": KEEP.astype(str)}, "got: shape [2, 5], <U"),
    ({"attention_mask": np.full((2, 5), None)}, "got: shape [2, 5], object"),
    ({"position_ids": IDS}, "takes no position_ids"),
    ({"token_state": IDS}, "takes no token_state"),
]


@pytest.mark.parametrize(("changed", "message"), BAD_CALLS)
def test_bad_calls_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser(), head="row-logits"))
    for call in (loaded, lambda **given: loaded.logits_at(ROWS, **given)):
        with pytest.raises(InputError) as caught:
            call(**{"input_ids": IDS, **changed})
        assert message in str(caught.value)
        assert caught.value.where in changed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([10]), "expected: 0 to 9"),
        (np.array([-1]), "rows is out of range"),
        (np.array([1.0]), "rows has a wrong form"),
        (np.array([[1]]), "rows has a wrong form"),
        ([1], "got: list"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser(), head="tokens"))
    with pytest.raises(InputError) as caught:
        loaded.greedy_at(rows, IDS)
    assert message in str(caught.value)


def test_bad_masks_of_dream_are_refused(tmp_path: Path) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser("Dream")))
    good = padding("Dream")
    for changed in (
        {"attention_mask": KEEP},
        {"attention_mask": good["attention_mask"].astype(int)},
    ):
        with pytest.raises(InputError, match="does not fit the model"):
            loaded(IDS, **{**good, **changed})
    with pytest.raises(InputError, match="position_ids is out of range"):
        loaded(IDS, **{**good, "position_ids": IDS + LIMIT})


def test_a_size_that_the_export_fixed_is_named(tmp_path: Path) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser(), batch=1))
    assert loaded(IDS[:1]).shape == (1, 5, VOCABULARY)
    with pytest.raises(InputError, match="exported for another shape"):
        loaded(IDS)


BAD_GENERATION: list[tuple[str, dict[str, Any], str, str]] = [
    ("llada", {"gen_lenght": 4}, "gen_lenght", "did you mean 'gen_length'"),
    ("llada", {"top_p": 0.5}, "top_p", "unknown generation argument"),
    ("llada", {"generator": 1}, "generator", "numpy.random.Generator"),
    ("llada", {"seed": -1}, "seed", "seed is not usable"),
    ("llada", {"seed": 1, "generator": np.random.default_rng(1)}, "seed", "both given"),
    ("llada", {"on_step": "print"}, "on_step", "on_step is not usable"),
    ("llada", {"gen_length": 6}, "gen_length", "not divisible"),
    ("llada", {"temperature": 0.5}, "temperature", "head row-logits"),
    ("llada", {"cfg_scale": 1.0}, "cfg_scale", "cfg_scale=1.0"),
    ("llada", {"logits_eos_inf": True}, "logits_eos_inf", "most probable token only"),
    ("llada", {"gen_length": 36, "block_length": 36}, "prompt_ids", "5 prompt tokens + 36"),
    ("Dream", {"alg": "entropy"}, "alg", "alg='maskgit_plus'"),
    ("Dream", {"temperature": 0.5, "top_k": 3}, "temperature, top_k", "temperature=0.5, top_k=3"),
    ("Dream", {"max_length": 9}, "max_length", "both given"),
]


@pytest.mark.parametrize(("kind", "changed", "where", "message"), BAD_GENERATION)
def test_bad_generation_is_refused(
    tmp_path: Path, kind: str, changed: dict[str, Any], where: str, message: str
) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser(kind), head="tokens"))
    steps: list[int] = []
    options = {"on_step": lambda step, *rest: steps.append(step), **GENERATION[kind], **changed}
    with pytest.raises(InputError) as caught:
        loaded.generate(IDS, **options)
    assert message in str(caught.value)
    assert caught.value.where == where
    assert steps == []


def test_bad_prompts_are_refused(tmp_path: Path) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser()))
    cases: list[tuple[Any, Any, str]] = [
        ("", None, "the prompt is empty"),
        ("one", KEEP, "a text needs no attention mask"),
        (IDS, KEEP[:, ::-1].copy(), "padded on the right"),
        (None, None, "got: NoneType"),
    ]
    for prompt, mask, message in cases:
        with pytest.raises(InputError) as caught:
            loaded.generate(prompt, mask, **GENERATION["llada"])
        assert message in str(caught.value)


@pytest.mark.parametrize("text", [5, None, b"one", ["one"], "one \ud800", "\udfff"])
def test_what_is_no_text_has_no_tokens(tmp_path: Path, text: Any) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser()))
    calls: list[Callable[[Any], Any]] = [loaded.encode]
    calls += [loaded.generate] if isinstance(text, str) else []
    for call in calls:
        with pytest.raises(InputError, match=r"no text|not Unicode"):
            call(text)


@pytest.mark.parametrize(
    "ids", [[[1], [1, 2]], [[1], [2]], None, "one", [None], [2**70], [1.0], {1}, [[[]]], [-1]]
)
def test_what_is_no_ids_has_no_text(tmp_path: Path, ids: Any) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser()))
    with pytest.raises(InputError, match="ids"):
        loaded.decode(ids)


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_numbers_of_numpy_are_numbers(tmp_path: Path, kind: str) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser(kind)), threads=np.int64(1))  # type: ignore[arg-type]
    plain = {**GENERATION[kind], "seed": 3, "temperature": 0.5}
    plain["mask_id" if kind == "llada" else "mask_token_id"] = MASK
    given: dict[str, Any] = {n: np.uint8(v) if isinstance(v, int) else v for n, v in plain.items()}
    given["temperature"] = np.float32(0.5)
    expected = loaded.generate(IDS, **plain)
    assert loaded.generate(IDS, **given).tolist() == expected.tolist()
    bad: list[tuple[str, Any]] = [
        ("temperature", 10**400),
        ("temperature", np.float32("nan")),
        ("temperature", np.bool_(True)),
        ("steps", np.bool_(True)),
        ("steps", np.float32(4)),
        ("seed", np.int64(-1)),
    ]
    for name, value in bad:
        with pytest.raises(InputError, match=f"{name} is not usable"):
            loaded.generate(IDS, **{**plain, name: value})


def test_tokens_only_has_no_logits(tmp_path: Path) -> None:
    loaded = runtime.load(write_export(tmp_path, ArrayDenoiser(), head="tokens"))
    for call in (lambda: loaded(IDS), lambda: loaded.logits_at(ROWS, IDS)):
        with pytest.raises(InputError, match="returns tokens, no logits"):
            call()


@pytest.mark.parametrize("head", ["logits", "tokens"])
@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_nan_is_named(tmp_path: Path, kind: str, head: str) -> None:
    model = ArrayDenoiser(kind)
    model.table[:, :, 0] = np.nan
    loaded = runtime.load(write_export(tmp_path, model, head=head))
    with pytest.raises(StarQuantError, match="logits contain NaN") as caught:
        loaded.generate(IDS, **GENERATION[kind])
    assert caught.value.where == "denoising step 1"
