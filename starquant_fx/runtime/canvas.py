"""The ids a sampler starts from: a checked batch of prompts with [MASK] appended."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from starquant_fx.config_facts import maximum_length, vocabulary_size
from starquant_fx.errors import InputError
from starquant_fx.runtime.inputs import Ids, check_ids, check_length, check_padding


class Canvas(NamedTuple):
    """The ids a sampler starts from.

    Attributes:
        ids: [B, L_prompt + new] int64, [MASK] after the prompt.
        keep: [B, L_prompt + new] bool, False at padding; None when nothing is padded.
    """

    ids: Ids
    keep: NDArray[np.bool_] | None


def blank_canvas(
    model: object, prompt_ids: Any, attention_mask: Any, new_tokens: int, mask_id: int
) -> Canvas:
    """Checks a batch of prompts and appends the tokens to generate as [MASK].

    Args:
        model: Its ``config``, where there is one, says the vocabulary and the maximal length.
        prompt_ids: [B, L] token ids, B and L at least 1.
        attention_mask: [B, L] with 1 = keep and 0 = padding, padding on the left; or None.
        new_tokens: Tokens to append.
        mask_id: Id of [MASK].

    Returns:
        The ids and the padding mask.

    Raises:
        InputError: Anything above does not hold.
    """
    ids = check_ids(prompt_ids, vocabulary_size(model), "prompt_ids")
    keep = None if attention_mask is None else _padding(attention_mask, ids)
    given, total = ids.shape[1], ids.shape[1] + new_tokens
    parts = f"{given} prompt tokens + {new_tokens} new ones = {total}"
    check_length(total, maximum_length(model), "prompt_ids", parts)
    filled = np.pad(ids, ((0, 0), (0, new_tokens)), constant_values=mask_id)
    if keep is None or keep.all():
        return Canvas(filled, None)
    return Canvas(filled, np.pad(keep, ((0, 0), (0, new_tokens)), constant_values=True))


def _padding(attention_mask: Any, ids: Ids) -> NDArray[np.bool_]:
    keep = check_padding(attention_mask, ids.shape)
    if not keep[:, -1].all():
        raise InputError(
            "the prompt is padded on the right, where the new tokens go",
            where="attention_mask",
            expected="padding on the left",
            got=f"the last column is padding in row {int((~keep[:, -1]).argmax())}",
            hint="put the padding before the prompt",
        )
    return keep
