"""The greedy choice among equal logits, which are common in bfloat16."""

from __future__ import annotations

import pytest
import torch

from starquant_fx.diffusion.filters import sample_tokens
from starquant_fx.operators import op


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_first_of_equal_logits_is_taken(dtype: torch.dtype) -> None:
    logits = torch.randint(0, 4, (500, 300), generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[::7, ::13] = -torch.inf
    logits[3] = -torch.inf
    _, found, _ = op("greedy")(logits, False)
    first = (logits == logits.amax(-1, keepdim=True)).long().argmax(-1)
    assert torch.equal(found, first)


def test_dream_takes_the_first_of_equal_probabilities() -> None:
    """The published sampler takes the largest of the rounded probabilities, where unequal logits meet."""
    logits = (torch.randn(500, 300, generator=torch.Generator().manual_seed(0)) / 50).bfloat16()
    sureness, tokens = sample_tokens(logits)
    expected = logits.softmax(-1).max(-1)
    assert torch.equal(tokens, expected.indices)
    assert torch.equal(sureness, expected.values)
    assert not torch.equal(tokens, logits.max(-1).indices)
