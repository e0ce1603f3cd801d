"""The ids a sampler starts from: a checked batch of prompts with [MASK] appended."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.model_facts import check_ids, check_padding, maximum_length, model_device


class Canvas(NamedTuple):
    """The ids a sampler starts from.

    Attributes:
        ids: [B, L_prompt + new] int64 on the model's device, [MASK] after the prompt.
        keep: [B, L_prompt + new] bool, False at padding; None when nothing is padded.
    """

    ids: Tensor
    keep: Tensor | None


def blank_canvas(
    model: object, prompt_ids: Any, attention_mask: Any, new_tokens: int, mask_id: int
) -> Canvas:
    """Checks a batch of prompts and appends the tokens to generate as [MASK].

    Args:
        model: Its ``config``, where there is one, says the vocabulary and the maximal length; its
            parameters say the device.
        prompt_ids: [B, L] token ids, B and L at least 1.
        attention_mask: [B, L] with 1 = keep and 0 = padding, padding on the left; or None.
        new_tokens: Tokens to append.
        mask_id: Id of [MASK].

    Returns:
        The ids and the padding mask.

    Raises:
        InputError: Anything above does not hold.
    """
    prompt_length(prompt_ids)
    ids = check_ids(prompt_ids, model, "prompt_ids")
    keep = None if attention_mask is None else _padding(attention_mask, ids)
    limit, total = maximum_length(model), ids.shape[1] + new_tokens
    if limit is not None and total > limit:
        raise InputError(
            "the sequence would be longer than the model's maximum",
            where="prompt_ids",
            expected=f"at most {limit} tokens",
            got=f"{ids.shape[1]} prompt tokens + {new_tokens} new ones = {total}",
            hint="shorten the prompt or generate fewer tokens",
        )
    device = model_device(model, ids.device)
    filled = torch.full((ids.shape[0], total), mask_id, dtype=torch.long, device=device)
    filled[:, : ids.shape[1]] = ids.to(device)
    if keep is None or bool(keep.all()):
        # All-ones masks are dropped: both published models give bitwise the same without them.
        return Canvas(filled, None)
    return Canvas(filled, F.pad(keep.to(device), (0, new_tokens), value=True))


def prompt_length(prompt_ids: Any) -> int:
    """Returns L of prompts [B, L]; raises an InputError if they have another form or are empty."""
    shape = list(prompt_ids.shape) if isinstance(prompt_ids, Tensor) else None
    if shape is None or len(shape) != 2:
        single = shape is not None and len(shape) == 1
        raise InputError(
            "the prompt has a wrong form",
            where="prompt_ids",
            expected="an integer tensor of shape [B, L]",
            got=type(prompt_ids).__name__ if shape is None else f"shape {shape}",
            hint="one prompt is a batch of one: prompt_ids.unsqueeze(0)"
            if single
            else "for example torch.tensor([ids])",
        )
    if 0 in shape:
        raise InputError(
            "the prompt is empty",
            where="prompt_ids",
            expected="at least one row and one token",
            got=f"shape {shape}",
            hint="start from the tokenizer's beginning-of-text token",
        )
    return shape[1]


def _padding(attention_mask: Any, ids: Tensor) -> Tensor:
    where, shape = "attention_mask", list(ids.shape)
    if not isinstance(attention_mask, Tensor) or list(attention_mask.shape) != shape:
        got = getattr(attention_mask, "shape", type(attention_mask).__name__)
        raise InputError(
            "the attention mask does not fit the prompt",
            where=where,
            expected=f"a tensor of shape {shape}",
            got=str(list(got) if isinstance(got, torch.Size) else got),
            hint="take ids and mask from one call of the tokenizer",
        )
    check_padding(attention_mask)
    keep = attention_mask.bool()
    if not bool(keep[:, -1].all()):
        raise InputError(
            "the prompt is padded on the right, where the new tokens go",
            where=where,
            expected="padding on the left",
            got=f"the last column is padding in row {int((~keep[:, -1]).nonzero()[0])}",
            hint="tokenizer.padding_side = 'left'",
        )
    return keep
