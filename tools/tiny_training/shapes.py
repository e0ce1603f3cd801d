"""The two small architectures, in the published configuration keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from starquant_fx.models.dream import DreamConfig, DreamModel
from starquant_fx.models.llada import LladaConfig, LladaModel

ARCHITECTURES = ("llada", "dream")
MAX_LENGTH = 512


def published_config(arch: str, tokenizer: PreTrainedTokenizerFast, **sizes: int) -> dict[str, Any]:
    """Returns ``config.json`` of a small model.

    Args:
        arch: ``"llada"`` or ``"dream"``.
        tokenizer: Gives the vocabulary size and the special tokens.
        **sizes: Overrides of the sizes, by published key.
    """
    rows = math.ceil(len(tokenizer) / 64) * 64
    special = {
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if arch == "llada":
        return {
            "architectures": ["LLaDAModelLM"],
            "model_type": "llada",
            "activation_type": "silu",
            "block_type": "llama",
            "layer_norm_type": "rms",
            "rope": True,
            "rope_full_precision": True,
            "include_bias": False,
            "weight_tying": False,
            "d_model": 256,
            "n_layers": 6,
            "n_heads": 4,
            "n_kv_heads": 4,
            "mlp_hidden_size": 640,
            "max_sequence_length": MAX_LENGTH,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "vocab_size": len(tokenizer),
            "embedding_size": rows,
            "torch_dtype": "bfloat16",
            **special,
            **sizes,
        }
    return {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "hidden_act": "silu",
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "max_position_embeddings": MAX_LENGTH,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": rows,
        "bos_token_id": tokenizer.bos_token_id,
        "torch_dtype": "bfloat16",
        **special,
        **sizes,
    }


def build(arch: str, config: dict[str, Any]) -> LladaModel | DreamModel:
    """Builds a model from its published configuration."""
    if arch == "llada":
        return LladaModel(LladaConfig.from_dict(config))
    return DreamModel(DreamConfig.from_dict(config))


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draws the starting weights: matrices by fan-in, projections into the residual stream and the head zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(weight: Tensor, std: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    head = model.get_output_embeddings()  # type: ignore[operator]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            normal(module.weight, 0.5)
        elif isinstance(module, nn.Linear):
            into_residual = name.endswith(("attn_out", "ff_out", "o_proj", "down_proj"))
            if into_residual or module is head:
                module.weight.zero_()
            else:
                normal(module.weight, module.in_features**-0.5)
            if module.bias is not None:
                module.bias.zero_()
