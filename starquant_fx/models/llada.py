"""LLaDA (LLaDA-8B-Base/Instruct, LLaDA-1.5) with the published configuration keys and tensor names.

Two published names invite mistakes and are kept: a block's ``ff_out`` is its down projection while
``model.transformer.ff_out`` is the LM head, and ``ff_proj`` is the gate while ``up_proj`` is the linear branch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starquant_fx.errors import ConfigError
from starquant_fx.models.config import PublishedConfig
from starquant_fx.models.layers import (
    DenoiserOutput,
    RMSNorm,
    all_kept,
    apply_rotary,
    bidirectional_attention,
    rotary_tables,
    split_heads,
)


@dataclasses.dataclass(kw_only=True)
class LladaConfig(PublishedConfig):
    """The published LLaDA configuration; field names are the published keys."""

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "activation_type": ("silu",),
        "alibi": (False,),
        "attention_layer_norm": (False,),
        "bias_for_layer_norm": (False, None),
        "block_group_size": (1,),
        "block_type": ("llama",),
        "include_bias": (False,),
        "include_qkv_bias": (False, None),
        "input_emb_norm": (False,),
        "layer_norm_type": ("rms",),
        "multi_query_attention": (None, False),
        "rope": (True,),
        "rope_full_precision": (True,),
        "scale_logits": (False,),
        "weight_tying": (False,),
    }
    # Without these the published code builds another model (OLMo's defaults), or the same with other numbers.
    REQUIRED: ClassVar[tuple[str, ...]] = (
        "activation_type",
        "block_type",
        "include_bias",
        "layer_norm_type",
        "rms_norm_eps",
        "rope",
        "rope_theta",
        "weight_tying",
    )

    d_model: int
    n_heads: int
    n_layers: int
    mlp_hidden_size: int
    vocab_size: int
    mask_token_id: int
    max_sequence_length: int
    eos_token_id: int
    n_kv_heads: int | None = None
    embedding_size: int | None = None
    pad_token_id: int | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    model_type: str = "llada"

    @classmethod
    def from_dict(cls, published: dict[str, Any]) -> LladaConfig:
        """As the base class, but refuses LLaDA-MoE, which publishes the same ``model_type``."""
        moe = [
            k
            for k in ("num_experts", "n_experts", "num_experts_per_tok", "moe_router_enabled")
            if published.get(k)
        ]
        if moe or any("MoE" in a for a in published.get("architectures") or ()):
            raise ConfigError(
                "this is LLaDA-MoE, which shares model_type 'llada' but has another architecture",
                where="config.json",
                expected="a dense LLaDA (LLaDA-8B-Base, LLaDA-8B-Instruct, LLaDA-1.5)",
                got=", ".join(moe) or str(published.get("architectures")),
                hint="mixture-of-experts models are not supported yet",
            )
        return super().from_dict(published)

    def validate(self) -> None:
        """Checks that the sizes fit each other."""
        self.require_heads("d_model", "n_heads", "n_kv_heads")
        self.require_special_tokens(self.embedding_size or self.vocab_size)


class LladaBlock(nn.Module):
    """One pre-norm transformer block.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: LladaConfig) -> None:
        super().__init__()
        d, kv_heads = config.d_model, config.n_kv_heads or config.n_heads
        self.heads, self.kv_heads = config.n_heads, kv_heads
        kv_features = d // config.n_heads * kv_heads
        self.attn_norm = RMSNorm(d, config.rms_norm_eps)
        self.ff_norm = RMSNorm(d, config.rms_norm_eps)
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, kv_features, bias=False)
        self.v_proj = nn.Linear(d, kv_features, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.ff_proj = nn.Linear(d, config.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(d, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, d, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Maps hidden states [B, L, d] to hidden states [B, L, d]."""
        h = self.attn_norm(x)
        q = apply_rotary(split_heads(self.q_proj(h), self.heads), *rotary)
        k = apply_rotary(split_heads(self.k_proj(h), self.kv_heads), *rotary)
        v = split_heads(self.v_proj(h), self.kv_heads)
        x = x + self.attn_out(bidirectional_attention(q, k, v, mask))
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


class LladaModel(nn.Module):
    """LLaDA with its LM head.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: LladaConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.embedding_size or config.vocab_size
        transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(rows, config.d_model),
                "blocks": nn.ModuleList(LladaBlock(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, rows, bias=False),
            }
        )
        self.model = nn.ModuleDict({"transformer": transformer})

    def get_output_embeddings(self) -> nn.Linear:
        """Returns the LM head."""
        head: nn.Linear = self.model["transformer"]["ff_out"]  # type: ignore[index]
        return head

    def forward_hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Returns the embeddings, the output of each block but the last, and the final normed state [B, L, d]."""
        parts: Any = self.model["transformer"]
        config = self.config
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        rotary = rotary_tables(positions, config.d_model // config.n_heads, config.rope_theta)
        x = parts["wte"](input_ids)
        mask = _additive_mask(attention_mask, attention_bias, x.dtype)
        states = []
        for block in parts["blocks"]:
            states.append(x)
            x = block(x, rotary, mask)
        return (*states, parts["ln_f"](x))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> DenoiserOutput:
        """Predicts the token at every position.

        Args:
            input_ids: [B, L] integer token ids.
            attention_mask: [B, L], 1 or True = keep; a zero hides the column from every query.
            attention_bias: Broadcastable to [B, H, L, L]; integers and bools: nonzero = may attend; floats
                are added to the scores.
            output_hidden_states: Also return the hidden states.

        Returns:
            Logits [B, L, rows of the embedding]; position i predicts the token at position i (not shifted).
        """
        states = self.forward_hidden(input_ids, attention_mask, attention_bias)
        logits = self.get_output_embeddings()(states[-1])
        return DenoiserOutput(logits, states if output_hidden_states else None)


def _additive_mask(keep: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Combines a padding mask and an attention bias as the published code does (revision of 2025-10-21)."""
    lowest = torch.finfo(dtype).min
    mask: Tensor | None = None
    if keep is not None and not all_kept(keep):
        mask = (1.0 - keep[:, None, None, :].to(dtype)) * lowest
    if bias is not None:
        if not bias.is_floating_point():
            bias = torch.where(bias != 0, 0.0, lowest)
        bias = bias.to(dtype)
        mask = bias if mask is None else (mask + bias).clamp(min=lowest)
    return mask
