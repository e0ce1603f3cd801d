"""What a model says about itself, and checks of what it is given against that."""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.config_facts import is_llada as is_llada
from starquant_fx.config_facts import is_shifted as is_shifted
from starquant_fx.config_facts import maximum_length as maximum_length
from starquant_fx.config_facts import vocabulary_size as vocabulary_size
from starquant_fx.errors import InputError


def model_device(model: object, default: torch.device) -> torch.device:
    """Device of a module's first parameter or buffer; ``default`` for anything without one."""
    if isinstance(model, nn.Module):
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            return tensor.device
    return default


def mask_token_of(model: object, tokenizer: Any = None) -> int | None:
    """The mask token's id as the configuration or the tokenizer says; None if neither does."""
    for owner in (getattr(model, "config", None), tokenizer):
        value = getattr(owner, "mask_token_id", None)
        if isinstance(value, int):
            return value
    return None


def not_a_model(given: object, expected: str) -> InputError:
    """The refusal of an argument ``model`` that is none; it says how to get one.

    Args:
        given: What was given.
        expected: What would have been accepted.

    Returns:
        The error.
    """
    hint = "load one: model, tokenizer = starquant_fx.from_pretrained(name_or_folder)"
    if isinstance(given, str | os.PathLike):
        name = os.fspath(given)
        hint = f"load it first: model, tokenizer = starquant_fx.from_pretrained({name!r})"
    elif isinstance(given, tuple):
        hint = "from_pretrained returns the model and its tokenizer: pass the first of the two"
    got = repr(given) if isinstance(given, str | os.PathLike | int | None) else type(given).__name__
    return InputError("this is no model", where="model", expected=expected, got=got, hint=hint)


def check_module(model: object) -> nn.Module:
    """Returns the argument ``model``; raises an InputError that says how to get one if it is no module."""
    if not isinstance(model, nn.Module):
        raise not_a_model(model, "a torch.nn.Module, as from_pretrained returns it")
    return model


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
            hint="ids.long()",
        )
    vocabulary = vocabulary_size(model)
    if torch.compiler.is_compiling():
        return ids.long()  # values are unknown; the embedding refuses what is out of range
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


def check_padding(mask: Tensor) -> None:
    """Raises an InputError if a padding mask [B, L] holds anything but 0 and 1."""
    if torch.compiler.is_compiling():
        return
    if not bool(((mask == 0) | (mask == 1)).all()):
        low, high = mask.min().item(), mask.max().item()
        raise InputError(
            "the attention mask has other values than 0 and 1",
            where="attention_mask",
            expected="1 = keep, 0 = padding",
            got=f"{low} to {high}",
            hint="attention_mask = (ids != tokenizer.pad_token_id).long()",
        )


def check_mask_token(mask_id: object, model: object) -> int | None:
    """Returns a mask token's id, or None as it is.

    Args:
        mask_id: What was given or configured.
        model: Its ``config``, where there is one, says the vocabulary.

    Returns:
        The id.

    Raises:
        InputError: It is no integer, or outside the model's vocabulary.
    """
    vocabulary = vocabulary_size(model)
    if mask_id is None:
        return None
    whole = isinstance(mask_id, int) and not isinstance(mask_id, bool)
    if not whole or mask_id < 0 or (vocabulary is not None and mask_id >= vocabulary):  # type: ignore[operator]
        raise InputError(
            "the mask token is outside the vocabulary" if whole else "the mask token is no id",
            where="mask_token_id",
            expected="a token id" if vocabulary is None else f"an integer, 0 to {vocabulary - 1}",
            got=repr(mask_id),
            hint="tokenizer.mask_token_id, or model.config.mask_token_id, has it",
        )
    return mask_id  # type: ignore[return-value]


def chosen_mask_token(asked: object, model: object, tokenizer: Any) -> int | None:
    """The mask token that was asked for, else the one that ``mask_token_of`` finds; None if there is neither.

    Raises:
        InputError: It is no integer, or outside the model's vocabulary.
    """
    return check_mask_token(mask_token_of(model, tokenizer) if asked is None else asked, model)


def check_tokenizer(tokenizer: Any, model: object, mask_id: int | None) -> None:
    """Checks that a tokenizer can belong to a model.

    A smaller vocabulary than the model's is common (embeddings are padded) and says nothing.

    Args:
        tokenizer: A transformers tokenizer.
        model: Its ``config``, where there is one, says the vocabulary.
        mask_id: The model's mask token; None: not known.

    Raises:
        InputError: It has more tokens than the model, or another mask token.
    """
    where, hint = "tokenizer", "use the tokenizer that belongs to the model"
    rows, size = vocabulary_size(model), len(tokenizer) if hasattr(tokenizer, "__len__") else 0
    if rows is not None and size > rows:
        raise InputError(
            "the tokenizer does not match the model's vocabulary",
            where=where,
            expected=f"at most {rows} tokens",
            got=f"{size} tokens",
            hint=hint,
        )
    own = getattr(tokenizer, "mask_token_id", None)
    if own is not None and mask_id is not None and own != mask_id:
        raise InputError(
            "the tokenizer's mask token is not the model's",
            where=where,
            expected=f"mask token {mask_id}",
            got=str(own),
            hint=hint,
        )
