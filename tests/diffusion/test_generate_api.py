from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from starquant_fx.diffusion import GenerationResult, generate
from starquant_fx.errors import InputError, StarQuantError
from tests import golden_data
from tests.diffusion.fakes import EOS, EOT, LIMIT, MASK, PROMPT, SHORT, Denoiser


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_the_sampler_follows_the_models_type(kind: str) -> None:
    golden = {"llada": "greedy_blocks", "Dream": "entropy_t0"}[kind]
    case = golden_data.case(kind.lower(), golden)
    prompt = golden_data.tensors(kind.lower())[case["prompt"]]
    ids = generate(golden_data.model(kind.lower()), prompt, **case["kwargs"])
    assert ids.tolist() == case["final"]


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_left_padded_row_equals_the_row_alone(name: str) -> None:
    which = {"llada": "greedy_batch_leftpad", "dream": "entropy_batch_leftpad"}[name]
    case, recorded = golden_data.case(name, which), golden_data.tensors(name)
    prompts, mask = recorded[case["prompt"]], recorded[case["attention_mask"]]
    together = generate(golden_data.model(name), prompts, mask, **case["kwargs"])
    for row in range(len(prompts)):
        pads = int((mask[row] == 0).sum())
        alone = generate(golden_data.model(name), prompts[row : row + 1, pads:], **case["kwargs"])
        assert torch.equal(together[row, pads:], alone[0])
    assert (mask == 0).sum() > 0


def test_any_masked_language_model_is_sampled() -> None:
    torch.manual_seed(0)
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    )
    prompts = torch.tensor([[7, 8, 9], [0, 8, 9]])
    options: dict[str, Any] = {"steps": 2, "gen_length": 4, "block_length": 4}
    with pytest.raises(InputError, match="no usable mask_id"):
        generate(bert, prompts, **options)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    ids = generate(bert, prompts, mask, mask_id=29, **options)
    assert ids.shape == (2, 7)
    assert torch.equal(ids[:, :3], prompts)
    bert.config.mask_token_id = 29
    assert torch.equal(generate(bert, prompts, mask, **options), ids)


def test_a_plain_function_that_returns_a_tensor_is_enough() -> None:
    model = Denoiser().eval()

    def function(ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = model(ids, attention_mask).logits
        return logits

    with pytest.raises(InputError, match="mask_id"):
        generate(function, PROMPT, **SHORT["llada"])
    ids = generate(function, PROMPT, mask_id=MASK, **SHORT["llada"])
    assert torch.equal(ids, generate(model, PROMPT, **SHORT["llada"]))


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_modes_are_restored_and_no_gradient_is_kept(kind: str) -> None:
    model = Denoiser(kind)
    model.dropout.eval()
    model.train(True)
    model.dropout.training = False
    ids = generate(model, PROMPT, **SHORT[kind])
    assert model.training
    assert not model.dropout.training
    model.train(True)
    # Dropout would change the logits if the sampler ran in training mode.
    assert torch.equal(generate(model, PROMPT, **SHORT[kind]), ids)
    assert not ids.requires_grad
    assert model.dropout.training


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_return_dict_records_every_step(kind: str) -> None:
    seen: list[tuple[int, int]] = []

    def watch(step: int, total: int, ids: Tensor, confidence: Tensor) -> None:
        seen.append((step, total))
        ids.fill_(0)
        confidence.fill_(0)

    result = generate(Denoiser(kind), PROMPT, return_dict=True, **SHORT[kind])
    assert isinstance(result, GenerationResult)
    assert result.states is not None
    assert result.confidences is not None
    assert result.states.shape == result.confidences.shape == (4, 1, 11)
    assert torch.equal(result.states[-1], result.sequences)
    before = torch.nn.functional.pad(PROMPT, (0, 8), value=MASK)
    for state, confidence in zip(result.states, result.confidences, strict=True):
        changed = state != before
        assert torch.isfinite(confidence[changed]).all()
        assert (before[torch.isfinite(confidence)] == MASK).all()
        before = state
    # A callback that spoils what it is shown changes nothing.
    ids = generate(Denoiser(kind), PROMPT, on_step=watch, **SHORT[kind])
    assert torch.equal(ids, result.sequences)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_dreams_published_output_options() -> None:
    model = Denoiser("Dream")
    ids = generate(model, PROMPT, output_history=True, **SHORT["Dream"])
    assert isinstance(ids, Tensor)
    alone: Any = generate(model, PROMPT, return_dict_in_generate=True, **SHORT["Dream"])
    assert torch.equal(alone.sequences, ids)
    assert alone.history is None
    both: Any = generate(
        model, PROMPT, return_dict_in_generate=True, output_history=True, **SHORT["Dream"]
    )
    assert len(both.history) == 4
    assert torch.equal(both.history[-1], ids)


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_a_generator_makes_sampling_repeatable(kind: str) -> None:
    options = {**SHORT[kind], "temperature": 1.0}
    runs = [
        generate(Denoiser(kind), PROMPT, generator=torch.Generator().manual_seed(s), **options)
        for s in (5, 5, 6)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_padding_reaches_the_models_as_published() -> None:
    prompts = torch.tensor([[1, 2, 3], [0, 4, 5]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    llada, dream = Denoiser("llada"), Denoiser("Dream")
    generate(llada, prompts, mask, **SHORT["llada"])
    got = llada.calls[0]["attention_mask"]
    assert got is not None
    assert got.tolist() == [[1] * 11, [0] + [1] * 10]
    generate(dream, prompts, mask.bool(), **SHORT["Dream"])
    outer, positions = dream.calls[0]["attention_mask"], dream.calls[0]["position_ids"]
    assert outer is not None
    assert positions is not None
    assert outer.shape == (2, 1, 11, 11)
    assert outer.dtype == torch.bool
    keep = torch.tensor([[1] * 11, [0] + [1] * 10]).bool()
    assert torch.equal(outer[:, 0], keep[:, :, None] & keep[:, None, :])
    assert positions.tolist() == [list(range(11)), [1, *range(10)]]
    generate(dream, prompts, torch.ones_like(mask), **SHORT["Dream"])
    assert dream.calls[-1]["attention_mask"] is None


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_prompts_of_other_integer_types_are_taken(kind: str) -> None:
    expected = generate(Denoiser(kind), PROMPT, **SHORT[kind])
    for dtype in (torch.int32, torch.uint8):
        got = generate(Denoiser(kind), PROMPT.to(dtype), **SHORT[kind])
        assert got.dtype == torch.int64
        assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_a_model_that_breaks_is_named(kind: str) -> None:
    model = Denoiser(kind)
    with torch.no_grad():
        model.table[:, :, 0] = torch.nan
    with pytest.raises(StarQuantError, match="logits contain NaN") as caught:
        generate(model, PROMPT, **SHORT[kind])
    assert caught.value.where == "denoising step 1"
    with pytest.raises(InputError, match="did not return logits"):
        generate(lambda ids, attention_mask=None: ids, PROMPT, mask_id=MASK, **SHORT["llada"])


def test_uneven_rows_with_alg_temp_are_refused_not_crashed() -> None:
    prompts = torch.tensor([[1, MASK, MASK, MASK], [1, 2, 3, 4]])
    model = Denoiser("Dream")
    with pytest.raises(InputError, match="no \\[MASK\\] left"):
        generate(model, prompts, alg="entropy", alg_temp=0.5, steps=8, max_new_tokens=1)


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.integers(1, 3),
    block_length=st.integers(1, 6),
    steps_per_block=st.integers(1, 8),
    rows=st.integers(1, 3),
    remasking=st.sampled_from(["low_confidence", "random"]),
    temperature=st.sampled_from([0.0, 0.7]),
    cfg_scale=st.sampled_from([0.0, 1.5]),
)
def test_llada_reveals_each_block_evenly_and_completely(
    blocks: int,
    block_length: int,
    steps_per_block: int,
    rows: int,
    remasking: str,
    temperature: float,
    cfg_scale: float,
) -> None:
    prompt = torch.arange(rows * 4).view(rows, 4) % MASK
    result = generate(
        Denoiser(),
        prompt,
        return_dict=True,
        steps=blocks * steps_per_block,
        gen_length=blocks * block_length,
        block_length=block_length,
        remasking=remasking,
        temperature=temperature,
        cfg_scale=cfg_scale,
        generator=torch.Generator().manual_seed(0),
    )
    assert result.states is not None
    assert torch.equal(result.sequences[:, :4], prompt)
    assert (result.sequences != MASK).all()
    masked = (result.states == MASK).view(blocks, steps_per_block, rows, -1)
    left = masked[..., 4:].unflatten(-1, (blocks, block_length)).sum(-1)
    base, rest = divmod(block_length, steps_per_block)
    for block in range(blocks):
        done = 0
        for step in range(steps_per_block):
            done += base + (step < rest)
            expected = [0] * block + [block_length - done] + [block_length] * (blocks - block - 1)
            assert left[block, step].tolist() == [expected] * rows


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, 9),
    new=st.integers(1, 12),
    rows=st.integers(1, 3),
    alg=st.sampled_from(["origin", "maskgit_plus", "topk_margin", "entropy"]),
    alg_temp=st.sampled_from([None, 0.0, 0.5]),
    temperature=st.sampled_from([0.0, 0.7]),
    top_p=st.sampled_from([None, 0.3, 1.0]),
    top_k=st.sampled_from([None, 1, 4]),
)
def test_dream_reveals_everything_and_changes_nothing_twice(
    steps: int,
    new: int,
    rows: int,
    alg: str,
    alg_temp: float | None,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
) -> None:
    prompt = torch.arange(rows * 4).view(rows, 4) % MASK
    result = generate(
        Denoiser("Dream"),
        prompt,
        return_dict=True,
        steps=steps,
        max_new_tokens=new,
        alg=alg,
        alg_temp=alg_temp,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        generator=torch.Generator().manual_seed(0),
    )
    assert result.states is not None
    assert (result.sequences != MASK).all()
    before = torch.nn.functional.pad(prompt, (0, new), value=MASK)
    for state in result.states:
        fixed = before != MASK
        assert torch.equal(state[fixed], before[fixed])
        before = state


def test_forbidden_eos_is_never_generated() -> None:
    model = Denoiser()
    with torch.no_grad():
        model.table[..., EOS] = 20.0
    options: dict[str, Any] = {"steps": 4, "gen_length": 8, "block_length": 4}
    assert (generate(model, PROMPT, **options)[:, 3:] == EOS).all()
    assert (generate(model, PROMPT, logits_eos_inf=True, **options) != EOS).all()


@pytest.mark.parametrize(
    ("likely", "temperature", "confidence"),
    [(EOS, 0.0, 0), (EOT, 0.0, 0), (EOS, 0.1, 1), (EOT, 0.1, 0)],
)
def test_confidence_of_postponed_tokens(likely: int, temperature: float, confidence: int) -> None:
    """Greedy, both end tokens have confidence 0; with noise the published code drops only EoT."""
    model = Denoiser()
    with torch.no_grad():
        model.table[..., likely] = 40.0
    result = generate(
        model,
        PROMPT,
        return_dict=True,
        steps=1,
        gen_length=4,
        block_length=4,
        temperature=temperature,
        confidence_eos_eot_inf=True,
        eot_id=EOT,
    )
    assert result.confidences is not None
    assert (result.sequences[:, 3:] == likely).all()
    torch.testing.assert_close(result.confidences[0, 0, 3:], torch.full((4,), float(confidence)))


def test_the_models_maximum_is_reachable() -> None:
    ids = generate(Denoiser("Dream"), PROMPT, steps=2, max_length=LIMIT)
    assert ids.shape == (1, LIMIT)
