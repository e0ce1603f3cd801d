"""The samplers of arrays against those of torch: the same denoiser, the same random numbers, the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from starquant_fx import diffusion, runtime
from starquant_fx.diffusion import candidates, dream, filters, reveal
from starquant_fx.runtime.dream import shares
from tests.runtime.fakes import (
    EOS,
    MASK,
    ArrayDenoiser,
    ForTorch,
    TokensOnly,
    torch_numbers,
)

SEED = 3
SAMPLERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "llada": (runtime.llada_generate, diffusion.llada_generate),
    "Dream": (runtime.dream_generate, diffusion.dream_generate),
}


def both(
    kind: str, prompt: Any, mask: Any, options: dict[str, Any], **model: Any
) -> tuple[list[Any], list[Any]]:
    """All (step, total, ids, confidence) of the sampler of arrays and of that of torch."""
    ours, theirs = SAMPLERS[kind]
    denoiser = ArrayDenoiser(kind, **model)
    numbers = torch_numbers(denoiser, torch.Generator().manual_seed(SEED), len(prompt))
    got: list[Any] = []
    expected: list[Any] = []
    final = ours(
        denoiser,
        np.array(prompt),
        None if mask is None else np.array(mask),
        generator=numbers,
        on_step=lambda *step: got.append(step),
        **options,
    )
    reference = theirs(
        ForTorch(denoiser),
        torch.tensor(prompt),
        None if mask is None else torch.tensor(mask),
        generator=torch.Generator().manual_seed(SEED),
        on_step=lambda *step: expected.append(step),
        **options,
    )
    assert final.dtype == np.int64
    assert (final.tolist(), reference.tolist()) == (got[-1][2].tolist(), expected[-1][2].tolist())
    return got, expected


def tied(steps: list[Any]) -> bool:
    """Whether two positions of a row ever had the same confidence: ``torch.topk`` orders them in a way of its own."""
    rows = [row[row.isfinite()] for *_, confidence in steps for row in confidence]
    return any(len(row.unique()) < len(row) for row in rows)


def same(got: list[Any], expected: list[Any]) -> None:
    assert [step[:2] for step in got] == [step[:2] for step in expected]
    for ours, theirs in zip(got, expected, strict=True):
        assert ours[2].tolist() == theirs[2].tolist()
        assert ours[3].dtype == np.float32
        np.testing.assert_allclose(ours[3], theirs[3].numpy(), rtol=2e-5, atol=1e-7)


@st.composite
def prompts(draw: st.DrawFn, *, masks: str = "any") -> tuple[list[list[int]], Any]:
    """Prompts [B, L] and their mask: padding on the left or none; [MASK] anywhere, or equally often in all rows."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    tokens = st.integers(0, MASK if masks == "any" else MASK - 1)
    rows = draw(
        st.lists(st.lists(tokens, min_size=length, max_size=length), min_size=batch, max_size=batch)
    )
    if masks == "equal" and draw(st.booleans()):
        column = draw(st.integers(0, length - 1))
        for row in rows:
            row[column] = MASK
    if draw(st.booleans()):
        return rows, None
    pads = [draw(st.integers(0, length - 1)) for _ in rows]
    return rows, [[0] * n + [1] * (length - n) for n in pads]


@settings(max_examples=120, deadline=None)
@given(
    prompt=prompts(),
    blocks=st.integers(1, 3),
    block_length=st.integers(1, 5),
    steps_per_block=st.integers(1, 7),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 2.0]),
    cfg_scale=st.sampled_from([0.0, 0.0, 1.5]),
    remasking=st.sampled_from(["low_confidence", "random"]),
    logits_eos_inf=st.booleans(),
    confidence_eos_eot_inf=st.booleans(),
    seed=st.integers(0, 5),
)
def test_llada_gives_the_same_tokens(
    prompt: tuple[Any, Any],
    blocks: int,
    block_length: int,
    steps_per_block: int,
    temperature: float,
    cfg_scale: float,
    remasking: str,
    logits_eos_inf: bool,
    confidence_eos_eot_inf: bool,
    seed: int,
) -> None:
    options = {
        "steps": blocks * steps_per_block,
        "gen_length": blocks * block_length,
        "block_length": block_length,
        "temperature": temperature,
        "cfg_scale": cfg_scale,
        "remasking": remasking,
        "logits_eos_inf": logits_eos_inf,
        "confidence_eos_eot_inf": confidence_eos_eot_inf,
    }
    got, expected = both("llada", *prompt, options, seed=seed)
    assume(not tied(expected))
    same(got, expected)


@settings(max_examples=120, deadline=None)
@given(
    prompt=prompts(masks="equal"),
    new=st.integers(1, 12),
    steps=st.integers(1, 14),
    alg=st.sampled_from(["origin", "maskgit_plus", "topk_margin", "entropy"]),
    alg_temp=st.sampled_from([None, None, 0.0, 0.5]),
    temperature=st.sampled_from([0.0, 0.0, 0.7]),
    top_p=st.sampled_from([None, 1.0, 0.8]),
    top_k=st.sampled_from([None, 3, 100]),
    eps=st.sampled_from([1e-3, 0.0, 0.5]),
    seed=st.integers(0, 5),
)
def test_dream_gives_the_same_tokens(
    prompt: tuple[Any, Any],
    new: int,
    steps: int,
    alg: str,
    alg_temp: float | None,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
    eps: float,
    seed: int,
) -> None:
    options = {
        "max_new_tokens": new,
        "steps": steps,
        "alg": alg,
        "alg_temp": alg_temp,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "eps": eps,
    }
    got, expected = both("Dream", *prompt, options, seed=seed)
    assume(not tied(expected))
    same(got, expected)


@pytest.mark.parametrize("alg", ["maskgit_plus", "topk_margin", "entropy", "origin"])
@settings(max_examples=30, deadline=None)
@given(prompt=prompts(), new=st.integers(1, 8), steps=st.integers(1, 8), seed=st.integers(0, 5))
def test_dream_with_uneven_rows_and_sampled_masks_is_torchs_on_a_device(
    alg: str, prompt: tuple[Any, Any], new: int, steps: int, seed: int
) -> None:
    """Rows with fewer masks than are revealed: fixed columns, whose order is ``torch.topk``'s own on the CPU."""
    options = {"max_new_tokens": new, "steps": steps, "alg": alg}
    with pytest.MonkeyPatch.context() as patch:
        if alg != "origin":  # which draws more numbers there
            for module in (candidates, dream, filters, reveal):
                patch.setattr(module, "may_look", lambda device: False)
        got, expected = both("Dream", *prompt, options, seed=seed, mask_logit=1.0)
    assert [s[2].tolist() for s in got] == [s[2].tolist() for s in expected]


def test_llada_demotes_the_ends_of_text() -> None:
    """Tokens of confidence 0 come last, the first of them first."""
    denoiser = ArrayDenoiser()
    denoiser.table[..., EOS] = 4.0
    denoiser.table[5, :, 2] = 9.0
    seen: list[NDArray[Any]] = []
    runtime.llada_generate(
        denoiser,
        np.array([[1, 2, 3]]),
        steps=4,
        gen_length=4,
        block_length=4,
        confidence_eos_eot_inf=True,
        on_step=lambda step, total, ids, confidence: seen.append(ids[0, 3:]),
    )
    assert seen[0].tolist() == [MASK, MASK, 2, MASK]
    assert seen[3].tolist() == [EOS, EOS, 2, EOS]


def test_the_masks_own_logits_may_win() -> None:
    """Nothing forbids sampling [MASK], in both samplers."""
    options = {"steps": 4, "gen_length": 4, "block_length": 4}
    got, expected = both("llada", [[1, 2]], None, options, mask_logit=3.0)
    same(got, expected)
    assert MASK in got[-1][2]


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch.linspace rounds twice here"
)
@settings(max_examples=200, deadline=None)
@given(steps=st.integers(1, 600), eps=st.just(0.0) | st.floats(1e-5, 0.999))
def test_the_time_grid_is_torchs(steps: int, eps: float) -> None:
    times = torch.linspace(1, eps, steps + 1)
    assert shares(steps, eps) == [*(1 - times[1:-1] / times[:-2]).tolist(), 1.0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llada", {"steps": 8, "gen_length": 8, "block_length": 4}),
        ("llada", {"steps": 8, "gen_length": 8, "block_length": 4, "remasking": "random"}),
        ("Dream", {"steps": 5, "max_new_tokens": 8, "alg": "maskgit_plus"}),
        ("Dream", {"steps": 5, "max_new_tokens": 8, "alg": "origin"}),
        ("Dream", {"steps": 5, "max_new_tokens": 8, "alg": "maskgit_plus", "alg_temp": 0.4}),
    ],
)
@pytest.mark.parametrize("mask", [None, [[0, 1, 1], [1, 1, 1]]])
def test_tokens_are_enough_for_greedy_generation(kind: str, options: Any, mask: Any) -> None:
    prompt = np.array([[1, 2, 3], [4, 5, 6]])
    given_mask = None if mask is None else np.array(mask)
    sampler = SAMPLERS[kind][0]
    results = [
        sampler(model(kind), prompt, given_mask, generator=np.random.default_rng(1), **options)
        for model in (ArrayDenoiser, TokensOnly)
    ]
    assert results[0].tolist() == results[1].tolist()
