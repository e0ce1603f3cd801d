"""Held-out text as packed segments of equal length."""

from __future__ import annotations

from importlib import resources
from typing import Any

import torch
from torch import Tensor

from starquant_fx.errors import InputError, nearest

EXCERPTS = ("calibration", "test", "validation")


def excerpt(split: str) -> str:
    """Returns a text that ships with the package, from books in the public domain.

    Args:
        split: "test" (for tables), "validation" (for choices) or "calibration".

    Raises:
        InputError: There is no such split.
    """
    if split not in EXCERPTS:
        raise InputError(
            f"unknown split {split!r}",
            where="split",
            expected=" | ".join(EXCERPTS),
            got=repr(split),
            hint=nearest(str(split), EXCERPTS),
        )
    file = resources.files("starquant_fx") / "data" / f"{split}.txt"
    return file.read_text(encoding="utf-8")


def segments(text: str, tokenizer: Any, length: int, limit: int | None = None) -> Tensor:
    """Cuts a text into segments of equal length, without padding or special tokens.

    Args:
        text: The text. What is left over at its end is dropped.
        tokenizer: A transformers tokenizer; only ``encode`` is used.
        length: Tokens a segment.
        limit: At most so many segments, spread evenly over the text; None = all.

    Returns:
        [N, length] int64 token ids.

    Raises:
        InputError: ``length`` or ``limit`` is below 1, or the text does not fill one segment.
    """
    for name, value in (("length", length), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(
                f"{name} is not usable", where=name, expected="1 or more", got=str(value)
            )
    # verbose=False: a text longer than the model is what is asked for here.
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    available = len(ids) // length
    if available < 1:
        raise InputError(
            "the text does not fill one segment",
            where="text",
            expected=f"at least {length} tokens",
            got=f"{len(ids)} tokens",
            hint="use a longer text or shorter segments",
        )
    packed = torch.tensor(ids[: available * length], dtype=torch.long).view(available, length)
    if limit is None or limit >= available:
        return packed
    return packed[torch.arange(limit) * available // limit]
