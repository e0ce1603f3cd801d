"""Checks of the arrays a model is called with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starquant_fx.errors import InputError

Ids = NDArray[np.int64]


def check_ids(value: Any, size: int | None, where: str) -> Ids:
    """Returns token ids as int64 after checking form, dtype and range.

    Args:
        value: [B, L] integers, B and L at least 1.
        size: Ids lie below; None = not known.
        where: Name of the argument, for the error.

    Returns:
        [B, L] int64.

    Raises:
        InputError: Anything above does not hold.
    """
    if not isinstance(value, np.ndarray) or value.ndim != 2:
        single = isinstance(value, np.ndarray) and value.ndim == 1
        raise InputError(
            "the prompt has a wrong form" if where == "prompt_ids" else "the ids have a wrong form",
            where=where,
            expected="an integer array of shape [B, L]",
            got=describe(value),
            hint=f"one prompt is a batch of one: {where}[None]"
            if single
            else "for example numpy.array([ids])",
        )
    if value.size == 0:
        raise InputError(
            "the prompt is empty",
            where=where,
            expected="at least one row and one token",
            got=f"shape {list(value.shape)}",
            hint="start from the tokenizer's beginning-of-text token",
        )
    if not np.issubdtype(value.dtype, np.integer):
        raise InputError(
            "the ids have a wrong dtype",
            where=where,
            expected="integer token ids",
            got=str(value.dtype),
            hint="ids.astype(numpy.int64)",
        )
    low, high = int(value.min()), int(value.max())
    if low < 0 or (size is not None and high >= size):
        raise InputError(
            "token ids are out of range",
            where=where,
            expected="0 or more" if size is None else f"0 to {size - 1}",
            got=f"{low} to {high}",
            hint="use the tokenizer that belongs to the model",
        )
    return value.astype(np.int64)


def check_length(length: int, limit: int | None, where: str, parts: str | None = None) -> None:
    """Raises an InputError if a sequence is longer than the model's maximum.

    Args:
        length: Tokens of the sequence.
        limit: The most; None = not limited.
        where: Name of the argument, for the error.
        parts: How the length came about.
    """
    if limit is not None and length > limit:
        raise InputError(
            "the sequence would be longer than the model's maximum",
            where=where,
            expected=f"at most {limit} tokens",
            got=parts or str(length),
            hint="shorten the prompt or generate fewer tokens",
        )


def check_padding(value: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Returns a padding mask as bool; raises an InputError unless it has a shape and holds 0 and 1 only."""
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise InputError(
            "the attention mask does not fit the prompt",
            where="attention_mask",
            expected=f"an array of shape {list(shape)}",
            got=describe(value),
            hint="take ids and mask from one call of the tokenizer",
        )
    numbers = value.dtype.kind in "biuf"
    if not numbers or not ((value == 0) | (value == 1)).all():
        raise InputError(
            "the attention mask has other values than 0 and 1",
            where="attention_mask",
            expected="1 = keep, 0 = padding",
            got=f"{value.min()} to {value.max()}" if numbers else describe(value),
            hint="attention_mask = (ids != pad_id).astype(numpy.int64)",
        )
    return value.astype(bool)


def check_whole(name: str, value: Any, shape: tuple[int, ...], limit: int, meaning: str) -> Ids:
    """Returns an array of whole numbers as int64.

    Args:
        name: The argument's name.
        value: What the caller gave.
        shape: Its shape; -1 = any.
        limit: Numbers are 0 or more and lie below.
        meaning: What the numbers are, for the error.

    Raises:
        InputError: Another shape or dtype, or a number out of range.
    """
    fits = isinstance(value, np.ndarray) and value.ndim == len(shape)
    fits = fits and all(want in (-1, got) for want, got in zip(shape, value.shape, strict=True))
    if not fits or not np.issubdtype(value.dtype, np.integer):
        raise InputError(
            f"{name} has a wrong form",
            where=name,
            expected=f"an integer array of shape {['R' if n < 0 else n for n in shape]}: {meaning}",
            got=describe(value),
            hint=f"{name} = numpy.array(..., dtype=numpy.int64)",
        )
    if value.size and not 0 <= int(value.min()) <= int(value.max()) < limit:
        raise InputError(
            f"{name} is out of range",
            where=name,
            expected=f"0 to {limit - 1}: {meaning}",
            got=f"{int(value.min())} to {int(value.max())}",
            hint="positions count from 0",
        )
    return value.astype(np.int64)


def describe(value: Any) -> str:
    """Shape and dtype of an array, or the type of anything else."""
    if isinstance(value, np.ndarray):
        return f"shape {list(value.shape)}, {value.dtype}"
    return type(value).__name__
