"""With numpy's own random numbers tokens follow the distributions that the formulas name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from starquant_fx.runtime.filters import draw_order, sample_tokens
from starquant_fx.runtime.llada import gumbel_argmax
from starquant_fx.runtime.stepping import softmax

DRAWS = 40_000
LOGITS = np.array([2.0, 1.0, 0.0, -1.0, -np.inf], np.float32)
MANY = np.tile(LOGITS, (DRAWS, 1))
CLOSE = 4 * (0.25 / DRAWS) ** 0.5  # four standard deviations


def frequencies(tokens: NDArray[Any]) -> NDArray[Any]:
    return np.bincount(tokens, minlength=len(LOGITS)) / len(tokens)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_softmax_at_a_temperature(temperature: float) -> None:
    expected = softmax(LOGITS / np.float32(temperature))
    source = np.random.default_rng(0)
    llada = gumbel_argmax(MANY, temperature, source.random(MANY.shape))
    _, dream = sample_tokens(
        MANY,
        temperature=temperature,
        top_p=None,
        top_k=None,
        confidence="probability",
        generator=source,
    )
    for tokens in (llada, dream):
        np.testing.assert_allclose(frequencies(tokens), expected, atol=CLOSE)


def test_filters_leave_out_what_they_drop() -> None:
    expected = softmax(np.where(LOGITS < 1, -np.inf, LOGITS))
    for top_p, top_k in ((0.8, None), (None, 2)):
        _, tokens = sample_tokens(
            MANY,
            temperature=1.0,
            top_p=top_p,
            top_k=top_k,
            confidence="probability",
            generator=np.random.default_rng(0),
        )
        np.testing.assert_allclose(frequencies(tokens), expected, atol=CLOSE)


def test_positions_are_drawn_without_replacement() -> None:
    chances = np.tile(softmax(LOGITS), (DRAWS, 1))
    order = draw_order(chances, 2, np.random.default_rng(0))
    first, second = order.T
    assert (first != second).all()
    one = softmax(LOGITS)
    np.testing.assert_allclose(frequencies(first), one, atol=CLOSE)
    # The second of those that are left: sum over i of p_i p_j / (1 - p_i).
    rest = np.array(
        [sum(p * q / (1 - p) for i, p in enumerate(one) if i != j) for j, q in enumerate(one)]
    )
    np.testing.assert_allclose(frequencies(second), rest, atol=CLOSE)
