"""Packed token windows as a pure function of the step, so that a resumed run sees the same data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from starquant_fx.errors import InputError
from tiny_training.corpus import Document

Ids = npt.NDArray[np.uint16]
# A window is cut into equal shorter ones in a share of the steps, so that the model knows all lengths.
LENGTH_SHARES = {512: 0.2, 256: 0.6, 128: 0.15, 64: 0.05}


def cut_lengths(window: int) -> list[int]:
    """Returns the lengths that a window is cut to; its own where none of them divides it."""
    return [n for n in LENGTH_SHARES if window % n == 0] or [window]


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, documents: Iterable[Document]
) -> list[Ids]:
    """Encodes documents, each followed by the end-of-text token."""
    encodings = tokenizer.backend_tokenizer.encode_batch([d.text for d in documents])
    end = tokenizer.eos_token_id
    return [np.array([*encoding.ids, end], dtype=np.uint16) for encoding in encodings]


@dataclass(frozen=True)
class TrainingStream:
    """Batches of packed windows: documents shuffled, joined, cut, and the windows shuffled, each epoch anew.

    Attributes:
        documents: Token ids of each document, its end-of-text token included.
        window: Tokens in a window.
        batch: Windows in a batch.
        seed: Seed of all shuffles.
    """

    documents: list[Ids]
    window: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        """Refuses a corpus that does not fill one batch."""
        if self.batches_per_epoch < 1:
            raise InputError(
                "the training split is smaller than one batch",
                where="training split",
                expected=f"more than {self.window * (self.batch + 1)} tokens",
                got=f"{self.tokens} tokens",
                hint="use more text, a smaller --batch or a smaller --window",
            )

    @property
    def tokens(self) -> int:
        """Tokens in an epoch."""
        return sum(len(d) for d in self.documents)

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in an epoch (one window is lost to the random offset)."""
        return (self.tokens // self.window - 1) // self.batch

    def epoch(self, number: int) -> npt.NDArray[np.int64]:
        """Returns all windows of an epoch, [windows, window], in the epoch's order."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(len(self.documents))
        text = np.concatenate([self.documents[i] for i in order])
        offset = int(random.integers(self.window))
        windows = self.batches_per_epoch * self.batch
        cut = text[offset : offset + windows * self.window].reshape(windows, self.window)
        return cut[random.permutation(windows)].astype(np.int64)

    def batches(self, first_step: int) -> Iterable[Tensor]:
        """Yields the batches [batch, window] of step ``first_step`` and all later steps, without end."""
        number, skip = divmod(first_step, self.batches_per_epoch)
        while True:
            windows = self.epoch(number)
            for index in range(skip, self.batches_per_epoch):
                yield torch.from_numpy(windows[index * self.batch : (index + 1) * self.batch])
            number, skip = number + 1, 0


def evaluation_windows(documents: list[Ids], window: int, count: int) -> Tensor:
    """Cuts evenly spaced windows out of a split, the same ones every time.

    Args:
        documents: Token ids of each document.
        window: Tokens in a window.
        count: At most so many windows.

    Returns:
        [n, window] int64, n <= count.
    """
    text = np.concatenate(documents).astype(np.int64)
    available = len(text) // window
    if available < 1:
        raise InputError(
            "a held-out split is smaller than one window",
            where="validation or test split",
            expected=f"{window} tokens",
            got=f"{len(text)} tokens",
            hint="use more text",
        )
    chosen = np.unique(np.linspace(0, available - 1, min(count, available)).round().astype(int))
    return torch.from_numpy(text[: available * window].reshape(available, window)[chosen])
