"""Calibration data: sequences of token ids in the states that a denoiser meets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from starquant_fx.devices import Draws
from starquant_fx.errors import CalibrationError
from starquant_fx.tensor_file import read_tensors, write_tensors

CHUNK = 16
"""Sequences that a graph is run on at once."""


class Entering(Protocol):
    """What enters a part of a model that is compiled on its own."""

    def rows(self, stream: str, rows: slice) -> Tensor:
        """Values [b, L, d] of some sequences in one of ``STREAMS``."""
        ...


class Activations:
    """Inputs of sites by name; those that do not fit into a budget of memory are kept in files.

    Args:
        folder: Where to; None = everything stays in memory.
        budget: Bytes of memory.

    Attributes:
        held: Bytes in memory.
        spilled: Bytes in files.
    """

    def __init__(self, folder: Path | None = None, budget: int = 0) -> None:
        self._folder, self._budget = folder, budget
        self._kept: dict[str, Tensor | Path] = {}
        self.held = self.spilled = 0

    def __contains__(self, name: str) -> bool:
        """Whether the inputs of a site are there."""
        return name in self._kept

    def __setitem__(self, name: str, tokens: Tensor) -> None:
        """Keeps the inputs [N, d] of a site."""
        if self._folder is None or self.held + tokens.nbytes <= self._budget:
            self._kept[name] = tokens
            self.held += tokens.nbytes
            return
        path = self._folder / f"site-{len(self._kept):04d}.safetensors"
        write_tensors(path, {"tokens": tokens})
        self._kept[name] = path
        self.spilled += tokens.nbytes

    def __getitem__(self, name: str) -> Tensor:
        """The inputs [N, d] of a site; from a file, they stay mapped to it."""
        kept = self._kept[name]
        return kept if isinstance(kept, Tensor) else read_tensors(kept)["tokens"]


FULL, TRANSFORMED = "full", "transformed"
QUANTIZED, CORRECTED = "quantized", "corrected"
STREAMS = (FULL, TRANSFORMED, QUANTIZED, CORRECTED)
"""States of a program whose values are estimated from: the original model; the transformed one, quantizers off; the
one with GPTQ's weights; and the one with corrections."""


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
        entering: For a part of a model: what its first part hands it; None = a whole model, which reads token ids.
    """

    batches: list[Tensor]
    token_states: list[Tensor] | None = None
    max_tokens: int = 8192
    seed: int = 0
    texts: list[Tensor] | None = None
    shifted: bool = False
    activations: Activations = dataclasses.field(default_factory=Activations)
    entering: Entering | None = None

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
        return {
            "sequences": sum(len(b) for b in self.batches),
            "tokens": self.tokens,
            "kept": min(self.tokens, self.max_tokens),
            "bytes": self.activations.held,
        }

    def chunks(
        self, size: int = CHUNK, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Iterates over (ids, states or None) of at most ``size`` sequences.

        Args:
            size: Sequences of a chunk.
            first: Only the first sequences of the first batch; None = all.
        """
        for index, batch in enumerate(self.batches if first is None else self.batches[:1]):
            states = self.token_states[index] if self.token_states else None
            count = len(batch) if first is None else min(first, len(batch))
            for start in range(0, count, size):
                rows = slice(start, min(start + size, count))
                yield batch[rows], states[rows] if states is not None else None

    def inputs(
        self, stream: str, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Iterates over what a graph reads, chunk by chunk: ids, states or None, and what enters a part or None.

        Args:
            stream: Which of ``STREAMS`` the graph belongs to.
            first: As for ``chunks``.

        Yields:
            Ids [b, L], states [b, L] and values [b, L, d].
        """
        start = 0
        for ids, states in self.chunks(first=first):
            rows = slice(start, start + len(ids))
            yield ids, states, None if self.entering is None else self.entering.rows(stream, rows)
            start = rows.stop

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
