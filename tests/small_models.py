"""Tiny denoisers of every layout that the core is tested on; built once, never written into."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

from starquant_fx.models.llada import LladaConfig, LladaModel
from tests import golden_data

KINDS = ("llada", "dream", "odd", "bert", "modernbert")
"""llada and dream: the goldens' real weights. odd: one LLaDA block of odd widths and one KV head."""
VOCABULARY = {"llada": 150, "dream": 150, "odd": 60, "bert": 100, "modernbert": 100}
"""Ids below this are ordinary tokens."""
MASK = {"llada": 158, "dream": 158, "odd": 60, "bert": 103, "modernbert": 103}
SHORT = "-short"
"""Ending of a kind: of its blocks the first alone, which takes a third of the time to trace, rewrite and run."""
BLOCKS = {
    "llada": ("model.transformer.blocks", "n_layers"),
    "dream": ("model.layers", "num_hidden_layers"),
    "bert": ("bert.encoder.layer", "num_hidden_layers"),
}
"""Where a kind has its blocks, and its configuration their number."""
for _ids in (VOCABULARY, MASK):
    _ids |= {kind + SHORT: _ids[kind] for kind in BLOCKS}
SHARED: dict[str, Any] = {
    "vocab_size": 104,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
    "attn_implementation": "sdpa",
}


@functools.cache
def model(kind: str) -> nn.Module:
    """The model of a kind, in eval mode."""
    if kind.endswith(SHORT):
        return _shortened(kind.removesuffix(SHORT))
    if kind in ("llada", "dream"):
        return golden_data.model(kind)
    built: nn.Module
    if kind == "odd":
        built = LladaModel(
            LladaConfig(
                d_model=36,
                n_heads=3,
                n_kv_heads=1,
                n_layers=1,
                mlp_hidden_size=75,
                vocab_size=61,
                embedding_size=61,
                mask_token_id=MASK[kind],
                eos_token_id=59,
                max_sequence_length=64,
            )
        )
    elif kind == "bert":
        built = BertForMaskedLM(BertConfig(**SHARED, intermediate_size=96))
    else:
        tokens: dict[str, Any] = {
            f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos"))
        }
        tokens |= {"cls_token_id": 1, "sep_token_id": 2}
        built = ModernBertForMaskedLM(
            ModernBertConfig(**SHARED, **tokens, intermediate_size=64, local_attention=8)
        )
    return randomize(built, seed=len(kind)).eval()


def _shortened(kind: str) -> nn.Module:
    short: Any = copy.deepcopy(model(kind))
    place, number = BLOCKS[kind]
    del short.get_submodule(place)[1:]
    setattr(short.config, number, 1)
    return short


def randomize(module: nn.Module, seed: int) -> nn.Module:
    """Weights whose outputs depend on every input: gains around 1, matrices of gain about 1.5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)
            elif "bias" in name:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(1 + 0.2 * noise)
    return module


def masked_ids(kind: str, shape: tuple[int, int], ratio: float, seed: int = 0) -> Tensor:
    """Random token ids [B, L] of which a share is masked."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY[kind], shape, generator=generator)
    hidden = torch.rand(shape, generator=generator) < ratio
    return ids.masked_fill(hidden, MASK[kind])
