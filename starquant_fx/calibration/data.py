"""Calibration data: sequences of token ids in the states that a denoiser meets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from starquant_fx.devices import Draws
from starquant_fx.errors import CalibrationError


@dataclasses.dataclass
class CalibrationData:
    """Sequences with some tokens masked, without padding.

    Attributes:
        batches: Int64 [b, L] tensors of one length each; masked positions hold the mask token.
        token_states: States of the same shapes for models without a mask token; None = computed from the ids.
        max_tokens: Tokens kept a site (a random subset by ``seed``); bounds the memory of cached activations.
        seed: Seed of the subset.
        texts: The sequences of ``batches`` before any token was masked; None = unknown.
        shifted: Whether the model's logits are shifted by one.
        activations: Cache of the sites' inputs, filled by ``activations.site_activations``.
    """

    batches: list[Tensor]
    token_states: list[Tensor] | None = None
    max_tokens: int = 8192
    seed: int = 0
    texts: list[Tensor] | None = None
    shifted: bool = False
    activations: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses empty data."""
        if not self.batches or not sum(b.numel() for b in self.batches):
            raise CalibrationError(
                "the calibration data is empty",
                where="calibration",
                expected="at least one sequence of token ids",
                got="none",
                hint="pass texts, a LongTensor [N, L] of token ids, or None to use the model's own generations",
            )

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(b.numel() for b in self.batches)

    def use(self) -> dict[str, int]:
        """What there is: sequences, tokens, tokens kept a site, and bytes of cached activations."""
        held = sum(t.numel() * t.element_size() for t in self.activations.values())
        return {
            "sequences": sum(len(b) for b in self.batches),
            "tokens": self.tokens,
            "kept": min(self.tokens, self.max_tokens),
            "bytes": held,
        }

    def chunks(self, size: int = 16) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Iterates over (ids, states or None) of at most ``size`` sequences."""
        for index, batch in enumerate(self.batches):
            states = self.token_states[index] if self.token_states else None
            for start in range(0, batch.shape[0], size):
                rows = slice(start, start + size)
                yield batch[rows], states[rows] if states is not None else None

    def masked_anew(
        self, rows: Tensor, mask_token_id: int | None, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """Sequences of the first batch under new random masks, mask ratios stratified over (0, 1).

        Args:
            rows: [n] which sequences.
            mask_token_id: What masks a token; None = the token states do.
            seed: Seed of ratios and masks.

        Returns:
            Ids [n, L], and states [n, L] where there is no mask token, else None; where no text is known, the states
            that there are.
        """
        if self.texts is None:
            states = self.token_states
            return self.batches[0][rows], None if states is None else states[0][rows]
        draws = Draws(seed)
        ids = self.texts[0][rows]
        shift = draws.uniform(1)
        ratio = (draws.permutation(len(rows)) + shift) / len(rows)
        masked = draws.uniform(*ids.shape) < ratio[:, None]
        if mask_token_id is None:
            return ids, masked.long()
        return torch.where(masked, mask_token_id, ids), None

    def subset(self) -> Tensor:
        """Sorted flat indices of the tokens that are kept."""
        if self.tokens <= self.max_tokens:
            return torch.arange(self.tokens)
        return Draws(self.seed).permutation(self.tokens)[: self.max_tokens].sort().values
