"""The greedy choice among equal logits, which are common in bfloat16."""

from __future__ import annotations

import pytest
import torch

from starquant_fx.diffusion.llada import gumbel_argmax


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_first_of_equal_logits_is_taken(dtype: torch.dtype) -> None:
    logits = torch.randint(0, 4, (500, 300), generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[::7, ::13] = -torch.inf
    logits[3] = -torch.inf
    found = gumbel_argmax(logits, 0.0, None)
    first = (logits == logits.amax(-1, keepdim=True)).long().argmax(-1)
    assert torch.equal(found, first)
