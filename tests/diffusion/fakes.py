"""Denoisers small enough to reason about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, EOT, MASK, EOS, LIMIT = 12, 9, 10, 11, 40
PROMPT = torch.tensor([[1, 2, 3]])
SHORT: dict[str, dict[str, Any]] = {
    "llada": {"steps": 4, "gen_length": 8, "block_length": 4},
    "Dream": {"steps": 4, "max_new_tokens": 8, "alg": "entropy"},
}


class Denoiser(nn.Module):
    """Random but fixed logits that depend on column and token and never propose [MASK]."""

    def __init__(self, model_type: str = "llada") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(LIMIT, VOCABULARY, VOCABULARY, generator=generator)
        table[..., MASK] = -1e4
        self.table = nn.Parameter(table)
        self.dropout = nn.Dropout(0.5)
        self.config = SimpleNamespace(
            model_type=model_type,
            vocab_size=VOCABULARY,
            mask_token_id=MASK,
            eos_token_id=EOS,
            max_sequence_length=LIMIT,
        )
        self.calls: list[dict[str, Tensor | None]] = []

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> SimpleNamespace:
        self.calls.append(
            {"ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        )
        columns = torch.arange(input_ids.shape[1])
        return SimpleNamespace(logits=self.dropout(self.table[columns, input_ids]))


class WordTokenizer:
    """Decodes ids to words, each but the first with a space before it."""

    WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "\x1b[31mred")

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.WORDS[i] if i < len(self.WORDS) else f"<{i}>" for i in ids)
