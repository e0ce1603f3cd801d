"""Denoisers whose probabilities are known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, MASK, LIMIT = 7, 6, 32


class Toy(nn.Module):
    """Logits are any function of the ids; keeps the ids it was called with."""

    def __init__(self, function: Callable[[Tensor], Tensor], model_type: str = "llada") -> None:
        super().__init__()
        self.function = function
        self.config = SimpleNamespace(
            model_type=model_type,
            vocab_size=VOCABULARY,
            mask_token_id=MASK,
            max_sequence_length=LIMIT,
        )
        self.calls: list[Tensor] = []

    def forward(self, input_ids: Tensor) -> Any:
        self.calls.append(input_ids.clone())
        return SimpleNamespace(logits=self.function(input_ids))


def constant(probabilities: list[float]) -> Toy:
    """Predicts the same distribution everywhere."""
    row = torch.tensor(probabilities).log()
    return Toy(lambda ids: row.expand(*ids.shape, len(row)))


def contextual(seed: int = 0, noise: float = 0.0) -> Toy:
    """Predicts from both neighbours, with a table that ``noise`` disturbs."""
    shape = VOCABULARY, VOCABULARY, VOCABULARY
    table = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    table += noise * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    return Toy(lambda ids: table[ids.roll(1, 1), ids.roll(-1, 1)])


def tokens(count: int, length: int, seed: int = 0) -> Tensor:
    """Random segments without the mask token."""
    return torch.randint(MASK, (count, length), generator=torch.Generator().manual_seed(seed))
