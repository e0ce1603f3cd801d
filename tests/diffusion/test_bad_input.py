from __future__ import annotations

from typing import Any

import pytest
import torch

from starquant_fx.diffusion import generate
from starquant_fx.errors import InputError
from tests.diffusion.fakes import PROMPT, SHORT, VOCABULARY, Denoiser

BAD_ARGUMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("llada", {"gen_length": 10}, "not divisible by block_length"),
    ("llada", {"steps": 5}, "not divisible by the number of blocks"),
    ("llada", {"steps": 0}, "steps is not usable"),
    ("llada", {"steps": 2.0}, "steps is not usable"),
    ("llada", {"gen_length": 0}, "gen_length is not usable"),
    ("llada", {"block_length": -4}, "block_length is not usable"),
    ("llada", {"temperature": -0.1}, "temperature is not usable"),
    ("llada", {"temperature": float("nan")}, "temperature is not usable"),
    ("llada", {"temperature": float("inf")}, "temperature is not usable"),
    ("llada", {"temperature": "hot"}, "temperature is not usable"),
    ("llada", {"cfg_scale": -1}, "cfg_scale is not usable"),
    ("llada", {"remasking": "low_confidense"}, "did you mean 'low_confidence'"),
    ("llada", {"mask_id": VOCABULARY}, "no usable mask_id"),
    ("llada", {"mask_id": True}, "no usable mask_id"),
    ("llada", {"logits_eos_inf": True, "eos_id": -1}, "no usable eos_id"),
    ("llada", {"confidence_eos_eot_inf": True}, "no usable eot_id"),
    ("llada", {"logits_eos_inf": "no"}, "expected: True or False"),
    ("llada", {"confidence_eos_eot_inf": 1}, "expected: True or False"),
    ("llada", {"generator": 1}, "a torch.Generator"),
    ("llada", {"live": 1}, "live is not usable"),
    ("llada", {"on_step": "print"}, "on_step is not usable"),
    ("llada", {"return_dict": "yes"}, "return_dict is not usable"),
    ("llada", {"progress": 1}, "progress is not usable"),
    ("llada", {"gen_lenght": 8}, "did you mean 'gen_length'"),
    ("llada", {"top_p": 0.9}, "unknown generation argument 'top_p'"),
    ("llada", {"gen_length": 40, "block_length": 40}, "longer than the model's maximum"),
    ("Dream", {"generator": 1}, "a torch.Generator"),
    ("Dream", {"output_history": 1}, "expected: True or False"),
    ("Dream", {"alg": "entropie"}, "did you mean 'entropy'"),
    ("Dream", {"alg_temp": -1}, "alg_temp is not usable"),
    ("Dream", {"top_p": 0.0}, "top_p is not usable"),
    ("Dream", {"top_p": 1.5}, "top_p is not usable"),
    ("Dream", {"top_k": 0}, "top_k is not usable"),
    ("Dream", {"eps": 1.0}, "eps is not usable"),
    ("Dream", {"steps": -1}, "steps is not usable"),
    ("Dream", {"temperature": -1}, "temperature is not usable"),
    ("Dream", {"max_length": 20}, "both given"),
    ("Dream", {"max_new_tokens": None, "max_length": 3}, "max_length is not usable"),
    ("Dream", {"max_new_tokens": 38}, "longer than the model's maximum"),
    ("Dream", {"gen_length": 8}, "unknown generation argument 'gen_length'"),
    ("Dream", {"max_new_token": 8}, "did you mean 'max_new_tokens'"),
]


@pytest.mark.parametrize(("kind", "changed", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(
    kind: str, changed: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Denoiser(kind)
    with pytest.raises(InputError) as caught:
        generate(model, PROMPT, **{"progress": True, **SHORT[kind], **changed})
    assert message in str(caught.value)
    assert caught.value.where in {*changed, "prompt_ids", "eot_id"}
    assert caught.value.got
    assert model.calls == []
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


BAD_INPUT: list[tuple[Any, Any, str]] = [
    (torch.tensor([1, 2]), None, "prompt_ids.unsqueeze(0)"),
    ([1, 2], None, "torch.tensor([ids])"),
    (torch.zeros(1, 2, 3, dtype=torch.long), None, "shape [1, 2, 3]"),
    (torch.tensor([[1.0, 2.0]]), None, "torch.float32"),
    (torch.tensor([[True, False]]), None, "torch.bool"),
    (torch.zeros(1, 0, dtype=torch.long), None, "the prompt is empty"),
    (torch.zeros(0, 3, dtype=torch.long), None, "the prompt is empty"),
    (torch.tensor([[1, VOCABULARY]]), None, "expected: 0 to 11"),
    (torch.tensor([[-1, 2]]), None, "token ids are out of range"),
    (PROMPT, torch.ones(1, 4), "a tensor of shape [1, 3]"),
    (PROMPT, [[1, 1, 1]], "got: list"),
    (PROMPT, torch.tensor([[2, 1, 1]]), "other values than 0 and 1"),
    (PROMPT, torch.tensor([[1, 1, 0]]), "padded on the right"),
]


@pytest.mark.parametrize("kind", ["llada", "Dream"])
@pytest.mark.parametrize(("prompt", "mask", "message"), BAD_INPUT)
def test_bad_prompts_are_refused(kind: str, prompt: Any, mask: Any, message: str) -> None:
    model = Denoiser(kind)
    for extra in ({}, {"max_length": 20, "max_new_tokens": None}):
        if extra and kind == "llada":
            continue
        with pytest.raises(InputError) as caught:
            generate(model, prompt, mask, **{**SHORT[kind], **extra})
        assert message in str(caught.value)
        assert caught.value.where in ("prompt_ids", "attention_mask")
    assert model.calls == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("llada-tiny", "model, tokenizer = starquant_fx.from_pretrained('llada-tiny')"),
        ((Denoiser(), None), "pass the first of the two"),
        (None, "got: None"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, message: str) -> None:
    with pytest.raises(InputError, match="no model") as caught:
        generate(model, PROMPT, **SHORT["llada"])
    assert message in str(caught.value)
