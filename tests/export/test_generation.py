"""The runtime generates with an export, token for token, what the compiled model generates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from starquant_fx import runtime
from tests.export.small import Exports, compiled
from tests.small_models import VOCABULARY

LLADA: dict[str, Any] = {"steps": 6, "gen_length": 12, "block_length": 6, "temperature": 0.0}
DREAM: dict[str, Any] = {"steps": 6, "max_new_tokens": 10, "temperature": 0.0}
DREAM_TOKENS = {"flavour": "integer", "head": "tokens", "attention_mask": True}
EXACT = "rtn-w4a16"
"""No activation is rounded, so none can be rounded the other way."""


def prompts(kind: str, batch: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(batch)
    return torch.randint(3, VOCABULARY[kind], (batch, 5), generator=source)


@pytest.mark.parametrize(
    ("kind", "recipe", "options", "arguments"),
    [
        ("odd", EXACT, {"head": "row-logits"}, LLADA),
        ("odd", "rtn-w8a8", {"flavour": "integer"}, LLADA),
        ("odd", "rtn-w4a4", {"flavour": "nbits", "head": "tokens"}, LLADA),
        pytest.param(
            *("dream", EXACT, {"head": "tokens"}, DREAM | {"alg": "maskgit_plus"}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("dream", EXACT, {"head": "row-logits", "attention_mask": True}),
            DREAM | {"alg": "entropy"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("dream", "rtn-w8a8", DREAM_TOKENS, DREAM | {"alg": "maskgit_plus"}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_tokens(
    exports: Exports, kind: str, recipe: str, options: Any, arguments: dict[str, Any]
) -> None:
    loaded = runtime.load(exports(kind, recipe, **options).folder, strict=True)
    for batch in (1, 3):
        given, mask = prompts(kind, batch), None
        if "attention_mask" in options:
            mask = torch.ones_like(given)
            mask[-1, :2] = 0
        of = EXACT if options.get("flavour") == "nbits" else recipe
        wanted = compiled(kind, of).generate(given, mask, **arguments)
        got = loaded.generate(
            given.numpy(), None if mask is None else mask.numpy(), seed=0, **arguments
        )
        assert np.array_equal(got, wanted.numpy())
        assert not (got == loaded.metadata.mask_token_id).any()
