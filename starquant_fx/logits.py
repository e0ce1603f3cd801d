"""Which logits speak of which column: LLaDA's are in place, Dream's are shifted by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def raw_logits(output: Any) -> Tensor:
    """The logits of a model's output, which is a Tensor or an object with ``.logits``."""
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def aligned_logits(output: Any, shifted: bool) -> Tensor:
    """Logits [B, L, V] whose position j predicts the token at position j.

    Args:
        output: What the model returned.
        shifted: As ``is_shifted`` says; column 0 then keeps its own logits, as in the published sampler.

    Returns:
        [B, L, V].
    """
    logits = raw_logits(output)
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if shifted else logits
