"""Dream (Dream-v0-7B; DiffuCoder and Dream-Coder share the layout) with the published keys and tensor names.

Qwen2's architecture made bidirectional. The forward does not shift its logits, generation does: logits used for
column j are the raw logits of column j - 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starquant_fx.errors import InputError
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
class DreamConfig(PublishedConfig):
    """The published Dream configuration; field names are the published keys."""

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",),
        "rope_scaling": (None,),
        "tie_word_embeddings": (False,),
        "use_mrope": (False, None),
        "use_sliding_window": (False, None),
    }
    REQUIRED: ClassVar[tuple[str, ...]] = ("rms_norm_eps", "rope_theta")

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    mask_token_id: int
    max_position_embeddings: int
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    bos_token_id: int | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    model_type: str = "Dream"

    def validate(self) -> None:
        """Checks that the sizes fit each other."""
        self.require_heads("hidden_size", "num_attention_heads", "num_key_value_heads")
        self.require_special_tokens(self.vocab_size)


class DreamAttention(nn.Module):
    """Grouped-query attention with biases on q, k and v only.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        d, self.heads, self.kv_heads = (
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
        )
        kv_features = d // self.heads * self.kv_heads
        self.q_proj = nn.Linear(d, d)
        self.k_proj = nn.Linear(d, kv_features)
        self.v_proj = nn.Linear(d, kv_features)
        self.o_proj = nn.Linear(d, d, bias=False)

    def forward(self, h: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Attends over [B, L, d] and projects back."""
        q = apply_rotary(split_heads(self.q_proj(h), self.heads), *rotary)
        k = apply_rotary(split_heads(self.k_proj(h), self.kv_heads), *rotary)
        v = split_heads(self.v_proj(h), self.kv_heads)
        out: Tensor = self.o_proj(bidirectional_attention(q, k, v, mask))
        return out


class DreamMLP(nn.Module):
    """SwiGLU.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Maps [B, L, d] to [B, L, d]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return out


class DreamLayer(nn.Module):
    """One pre-norm transformer layer.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.self_attn = DreamAttention(config)
        self.mlp = DreamMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Maps hidden states [B, L, d] to hidden states [B, L, d]."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class DreamBackbone(nn.Module):
    """Embedding, layers and final norm.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DreamLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class DreamModel(nn.Module):
    """Dream with its LM head.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DreamBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        """Returns the LM head."""
        return self.lm_head

    def forward_hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | str | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Returns the embeddings, the output of each layer but the last, and the final normed state [B, L, d]."""
        config = self.config
        mask, positions = _mask_and_positions(input_ids, attention_mask, position_ids)
        rotary = rotary_tables(
            positions, config.hidden_size // config.num_attention_heads, config.rope_theta
        )
        x = self.model.embed_tokens(input_ids)
        states = []
        for layer in self.model.layers:
            states.append(x)
            x = layer(x, rotary, mask)
        return (*states, self.model.norm(x))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | str | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> DenoiserOutput:
        """Predicts tokens at every position.

        Args:
            input_ids: [B, L] integer token ids.
            attention_mask: None or "full": no mask. [B, L] padding mask (1 = keep): hides the columns and, without
                position_ids, counts positions over kept tokens, as generation does. [B or 1, 1, L or 1, L]: bool
                (True = may attend) or float (added to the scores).
            position_ids: [B or 1, L] positions of the rotary embedding; 0..L-1 by default.
            output_hidden_states: Also return the hidden states.

        Returns:
            Raw logits [B, L, vocab]; position i predicts the token at position i + 1 (see the module's docstring).

        Raises:
            InputError: The attention mask is a string other than "full", has another rank than 2 or 4, or has rank 4
                and holds integers.
        """
        states = self.forward_hidden(input_ids, attention_mask, position_ids)
        return DenoiserOutput(self.lm_head(states[-1]), states if output_hidden_states else None)


def _mask_and_positions(
    input_ids: Tensor, attention_mask: Tensor | str | None, position_ids: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """Returns the mask for attention (None = none) and the rotary positions."""
    default = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    if isinstance(attention_mask, str) and attention_mask != "full":
        raise InputError(
            "unknown attention mask",
            where="attention_mask",
            expected="None, 'full' or a tensor",
            got=repr(attention_mask),
            hint="'full' is the same as None",
        )
    if attention_mask is None or isinstance(attention_mask, str):
        return None, default if position_ids is None else position_ids
    if attention_mask.dim() == 2:
        if all_kept(attention_mask):
            return None, default if position_ids is None else position_ids
        keep = attention_mask != 0
        if position_ids is None:
            position_ids = (keep.long().cumsum(-1) - 1).masked_fill(~keep, 1)
        return keep[:, None, None, :], position_ids
    if attention_mask.dim() != 4:
        raise InputError(
            "the attention mask has a wrong rank",
            where="attention_mask",
            expected="[B, L] or [B, 1, L, L]",
            got=str(list(attention_mask.shape)),
            hint="pad prompts by attention_mask [B, L], 1 = keep",
        )
    if attention_mask.dtype != torch.bool and not attention_mask.is_floating_point():
        raise InputError(
            "the attention mask has a wrong dtype",
            where="attention_mask",
            expected="bool (True = may attend), or float that is added to the scores",
            got=str(attention_mask.dtype),
            hint="attention_mask.bool()",
        )
    return attention_mask, default if position_ids is None else position_ids
