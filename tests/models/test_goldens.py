from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from starquant_fx.models.dream import DreamConfig, DreamModel
from starquant_fx.models.llada import LladaConfig, LladaModel
from tests import golden_data

ATOL = 2e-4
FORWARD = [(m, c["name"]) for m in ("llada", "dream") for c in golden_data.index(m)["forward"]]


def arguments(name: str, recorded: dict[str, str | None]) -> dict[str, Tensor]:
    """Resolves the tensor names of a recorded call; masks stored as uint8 'as bool' become bool."""
    resolved = {}
    for argument, tensor_name in recorded.items():
        if tensor_name is None:
            continue
        tensor = golden_data.tensors(name)[tensor_name.split(" ")[0]]
        resolved[argument] = tensor.bool() if "bool" in tensor_name.split(" (")[-1] else tensor
    return resolved


@pytest.mark.parametrize(("name", "which"), FORWARD)
def test_forward_equals_published_logits(name: str, which: str) -> None:
    case = next(c for c in golden_data.index(name)["forward"] if c["name"] == which)
    with torch.no_grad():
        logits = golden_data.model(name)(**arguments(name, case["args"])).logits
    expected = golden_data.tensors(name)[case["out"]]
    assert logits.shape == expected.shape
    difference = (logits - expected).abs()
    if which in ("c_outer", "c_outer_nopos"):
        keep = golden_data.tensors(name)["fwd/c_outer/attention_mask"].diagonal(dim1=-2, dim2=-1)
        difference = difference[keep[:, 0].bool()]
        assert difference.shape[0] == 55
    assert difference.max() < ATOL


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_hidden_states_equal_published(name: str) -> None:
    (case,) = golden_data.index(name)["hidden_states"]
    recorded = golden_data.tensors(name)
    with torch.no_grad():
        got = golden_data.model(name)(
            recorded[case["args"]["input_ids"]], output_hidden_states=True
        ).hidden_states
    assert len(got) == len(case["out"]) == 4
    for state, tensor_name in zip(got, case["out"], strict=True):
        torch.testing.assert_close(state, recorded[tensor_name], atol=ATOL, rtol=0)


def test_masks_that_keep_everything_change_nothing() -> None:
    ids = golden_data.tensors("dream")["fwd/c/input_ids"]
    model = golden_data.model("dream")
    ones = torch.ones_like(ids)
    with torch.no_grad():
        plain = model(ids).logits
        assert torch.equal(model(ids, attention_mask="full").logits, plain)
        assert torch.equal(model(ids, attention_mask=ones).logits, plain)
        llada = golden_data.model("llada")
        assert torch.equal(llada(ids, attention_mask=ones).logits, llada(ids).logits)


def bidirectional_mask(keep: Tensor) -> Tensor:
    """[B, L] -> the additive [B, 1, L, L] mask that hides padded columns and nothing else."""
    hidden = torch.zeros(keep.shape).masked_fill(keep == 0, torch.finfo(torch.float32).min)
    return hidden[:, None, None, :].expand(-1, 1, keep.shape[1], -1).contiguous()


def scatter_weights(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name or "ln_f" in name else 0.3 * noise)


def random_input(vocabulary: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (3, 13), generator=generator)
    keep = torch.ones_like(ids)
    keep[0, :4] = 0
    keep[2, :1] = 0
    return ids, keep


LLAMA_NAMES = {
    "model.transformer.wte.": "model.embed_tokens.",
    "model.transformer.ln_f.": "model.norm.",
    "model.transformer.ff_out.": "lm_head.",
    "model.transformer.blocks.": "model.layers.",
    ".attn_norm.": ".input_layernorm.",
    ".ff_norm.": ".post_attention_layernorm.",
    ".q_proj.": ".self_attn.q_proj.",
    ".k_proj.": ".self_attn.k_proj.",
    ".v_proj.": ".self_attn.v_proj.",
    ".attn_out.": ".self_attn.o_proj.",
    ".ff_proj.": ".mlp.gate_proj.",
    ".up_proj.": ".mlp.up_proj.",
    ".ff_out.": ".mlp.down_proj.",
}


def llama_name(name: str) -> str:
    for ours, theirs in LLAMA_NAMES.items():
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "layers"), [(4, 4, 64, 2), (6, 2, 96, 3), (4, 1, 32, 1)]
)
def test_llada_equals_bidirectional_llama(
    heads: int, kv_heads: int, width: int, layers: int
) -> None:
    ours = LladaModel(
        LladaConfig(
            d_model=width,
            n_heads=heads,
            n_kv_heads=kv_heads,
            n_layers=layers,
            mlp_hidden_size=width * 2 + 8,
            vocab_size=50,
            embedding_size=50,
            mask_token_id=49,
            eos_token_id=48,
            max_sequence_length=64,
            rope_theta=5000.0,
        )
    ).eval()
    scatter_weights(ours, seed=heads)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            num_hidden_layers=layers,
            intermediate_size=width * 2 + 8,
            vocab_size=50,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
            tie_word_embeddings=False,
        )
    ).eval()
    theirs.load_state_dict({llama_name(n): t for n, t in ours.state_dict().items()}, strict=True)
    ids, keep = random_input(50, seed=width)
    with torch.no_grad():
        for mask in (torch.ones_like(keep), keep):
            expected = theirs(
                ids,
                attention_mask=bidirectional_mask(mask),
                position_ids=torch.arange(ids.shape[1])[None],
            ).logits
            got = ours(ids, attention_mask=mask).logits
            torch.testing.assert_close(got, expected, atol=ATOL, rtol=0)


def dream_pair(heads: int, kv_heads: int, width: int) -> tuple[DreamModel, Any]:
    ours = DreamModel(
        DreamConfig(
            hidden_size=width,
            intermediate_size=width + 24,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=50,
            mask_token_id=49,
            max_position_embeddings=64,
            rope_theta=5000.0,
        )
    ).eval()
    scatter_weights(ours, seed=heads)
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=width,
            intermediate_size=width + 24,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=50,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
            tie_word_embeddings=False,
            use_sliding_window=False,
        )
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 64), (6, 3, 96), (4, 1, 32)])
def test_dream_equals_bidirectional_qwen2(heads: int, kv_heads: int, width: int) -> None:
    ours, theirs = dream_pair(heads, kv_heads, width)
    ids, keep = random_input(50, seed=width)
    everything = torch.ones_like(keep)
    plain_positions = torch.arange(ids.shape[1])[None].expand(ids.shape[0], -1)
    # What generation counts under left padding: kept tokens from 0 on, padded columns at 1.
    padded_positions = (keep.cumsum(1) - 1).masked_fill(keep == 0, 1)
    with torch.no_grad():
        for mask, positions in ((everything, plain_positions), (keep, padded_positions)):
            expected = theirs(
                ids, attention_mask=bidirectional_mask(mask), position_ids=positions
            ).logits
            by_padding = ours(ids, attention_mask=mask).logits
            by_key_mask = ours(
                ids, attention_mask=mask.bool()[:, None, None, :], position_ids=positions
            ).logits
            torch.testing.assert_close(by_padding, expected, atol=ATOL, rtol=0)
            torch.testing.assert_close(by_key_mask, expected, atol=ATOL, rtol=0)
