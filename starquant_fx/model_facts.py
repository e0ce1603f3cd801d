"""What a model says about itself: vocabulary, longest sequence, device, mask token, shifted logits."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.errors import InputError


def _first_integer(model: object, keys: tuple[str, ...]) -> int | None:
    config = getattr(model, "config", None)
    return next((v for v in (getattr(config, k, None) for k in keys) if isinstance(v, int)), None)


def vocabulary_size(model: object) -> int | None:
    """Rows of the model's embedding as its configuration says, None if it does not say."""
    # LLaDA's embedding_size is its number of rows; elsewhere the key is the width of the embedding.
    rows = ("embedding_size",) if is_llada(model) else ()
    return _first_integer(model, (*rows, "vocab_size"))


def maximum_length(model: object) -> int | None:
    """Longest sequence of the model as its configuration says, None if it does not say."""
    return _first_integer(model, ("max_sequence_length", "max_position_embeddings"))


def model_device(model: object, default: torch.device) -> torch.device:
    """Device of a module's first parameter or buffer; ``default`` for anything without one."""
    if isinstance(model, nn.Module):
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            return tensor.device
    return default


def is_llada(model: object) -> bool:
    """Whether a model's configuration is LLaDA's."""
    return getattr(getattr(model, "config", None), "model_type", None) == "llada"


def is_shifted(model: object) -> bool:
    """Whether a model's raw logits at position i predict the token at position i + 1 (Dream and its relatives)."""
    return getattr(getattr(model, "config", None), "model_type", None) == "Dream"


def mask_token_of(model: object, tokenizer: Any = None) -> int | None:
    """The mask token's id as the configuration or the tokenizer says; None if neither does."""
    for owner in (getattr(model, "config", None), tokenizer):
        value = getattr(owner, "mask_token_id", None)
        if isinstance(value, int):
            return value
    return None


def check_ids(ids: Tensor, model: object, where: str) -> Tensor:
    """Returns token ids as int64 after checking that they are integers within the vocabulary.

    Args:
        ids: Any shape, not empty.
        model: Its ``config``, where there is one, says the vocabulary.
        where: Name of the argument, for the error.

    Returns:
        The ids as int64.

    Raises:
        InputError: Wrong dtype, or an id out of range.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(
            "the ids have a wrong dtype",
            where=where,
            expected="integer token ids",
            got=str(ids.dtype),
        )
    vocabulary = vocabulary_size(model)
    low, high = (int(ids.min()), int(ids.max())) if ids.numel() else (0, 0)
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        raise InputError(
            "token ids are out of range",
            where=where,
            expected="0 or more" if vocabulary is None else f"0 to {vocabulary - 1}",
            got=f"{low} to {high}",
            hint="use the tokenizer that belongs to the model",
        )
    return ids.long()


def check_mask_token(mask_id: int | None, model: object) -> None:
    """Raises an InputError if a mask token's id is outside the model's vocabulary."""
    vocabulary = vocabulary_size(model)
    if mask_id is not None and vocabulary is not None and not 0 <= mask_id < vocabulary:
        raise InputError(
            "the mask token is outside the vocabulary",
            where="mask_token_id",
            expected=f"0 to {vocabulary - 1}",
            got=str(mask_id),
        )
