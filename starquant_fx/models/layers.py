"""The pieces that LLaDA and Dream share: RMS norm, rotary embedding, bidirectional attention.

They are written in the operators that a capture should keep (``linear``, ``rms_norm``,
``scaled_dot_product_attention``) and hold no buffers, so that a model can be built from its
configuration alone under fake tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenoiserOutput(NamedTuple):
    """What a denoiser returns.

    Attributes:
        logits: [B, L, vocab], in the model's dtype.
        hidden_states: Embeddings, the output of each layer but the last, and the final normed state, each
            [B, L, d]; None unless asked for.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class RMSNorm(nn.Module):
    """RMS norm computed in float32, gain applied after the cast back to the input's dtype.

    Args:
        features: Size of the last dimension.
        eps: Added to the mean square.
    """

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension of ``x`` [..., features]."""
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype) * self.weight


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Returns the cosine and sine tables of the half-split rotary embedding.

    Args:
        positions: [B or 1, L] integer positions.
        head_dim: Channels of a head (even).
        theta: Base of the frequencies.

    Returns:
        Two float32 tensors [B or 1, 1, L, head_dim].
    """
    exponents = (
        torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    )
    angles = positions[:, None, :, None].float() * (1.0 / theta**exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates pairs (i, i + head_dim / 2) of ``x`` [B, H, L, head_dim] in float32."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, heads * head_dim] -> [B, heads, L, head_dim]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def bidirectional_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention without a causal mask, heads merged again.

    Args:
        q: [B, H, L, head_dim].
        k: [B, H_kv, L, head_dim], H_kv divides H.
        v: As ``k``.
        mask: None, a bool mask (True = may attend) or an additive float mask, broadcastable to [B, H, L, L].

    Returns:
        [B, L, H * head_dim].
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2).flatten(2)


def all_kept(mask: Tensor) -> bool:
    """Whether a padding mask keeps everything; never asked while a graph is being captured."""
    return not torch.compiler.is_compiling() and bool((mask != 0).all())
