"""The operator ``starquant::greedy`` on the CPU: most probable tokens without a softmax in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.kernels import reference
from starquant_fx.kernels.cpu.library import call, unavailable


def greedy(logits: Tensor, by_probability: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.greedy``, bit for bit as torch computes it on AVX512.

    The reference itself runs where the machine has no kernels, for other types than bfloat16 and float32, without
    columns, and if the largest logit of a row is not finite.
    """
    covered = logits.dtype in (torch.bfloat16, torch.float32) and logits.dim() == 2
    if not covered or logits.shape[1] == 0 or unavailable() is not None:
        return reference.greedy(logits, by_probability)
    rows, columns = logits.shape
    largest = torch.empty(rows, dtype=logits.dtype, device="cpu")
    tokens = torch.empty(rows, dtype=torch.long, device="cpu")
    probability = torch.empty_like(largest)
    strange = call(
        "starquant_greedy",
        *(logits.contiguous(), rows, columns, int(by_probability)),
        *(largest, tokens, probability, int(logits.dtype == torch.bfloat16)),
    )
    if strange:
        return reference.greedy(logits, by_probability)
    return largest, tokens, probability


# The operator itself is registered with its reference, whether or not this module is imported.
_LIBRARY = torch.library.Library("starquant", "IMPL")
_LIBRARY.impl("greedy", greedy, "CPU")
