"""Turning logits into tokens with a confidence, as Dream's sampler does it; see ``starquant_fx.diffusion.filters``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starquant_fx.runtime.inputs import Ids
from starquant_fx.runtime.stepping import greedy, softmax


def keep_top_p(logits: NDArray[Any], top_p: float) -> NDArray[Any]:
    """Nucleus filter: keeps the fewest most probable tokens whose sum exceeds ``top_p``.

    Args:
        logits: [N, vocab].
        top_p: In (0, 1]. The most probable token always stays.

    Returns:
        [N, vocab]; dropped logits are the dtype's lowest finite value.
    """
    order = np.argsort(-logits, axis=-1, kind="stable")
    sums = softmax(np.take_along_axis(logits, order, -1)).cumsum(-1, dtype=np.float64)
    before = np.roll(sums.astype(logits.dtype), 1, -1)
    before[:, 0] = 0.0
    dropped = np.zeros(logits.shape, bool)
    np.put_along_axis(dropped, order, before > logits.dtype.type(top_p), -1)
    return np.where(dropped, np.finfo(logits.dtype).min, logits)


def keep_top_k(logits: NDArray[Any], top_k: int) -> NDArray[Any]:
    """Keeps the ``top_k`` largest logits [N, vocab] and ties with the last; see ``keep_top_p``."""
    last = logits.shape[-1] - min(top_k, logits.shape[-1])
    least = np.partition(logits, last, axis=-1)[:, last : last + 1]
    return np.where(logits < least, np.finfo(logits.dtype).min, logits)


def draw_order(probabilities: NDArray[Any], count: int, generator: np.random.Generator) -> Ids:
    """Indices drawn without replacement from each row of ``probabilities`` [N, M], in the order of the draws.

    The order is that of probability / exponential noise, as in ``torch.multinomial``.

    Args:
        probabilities: [N, M]; rows need not sum to 1.
        count: How many.
        generator: Source of random numbers.

    Returns:
        [N, count] int64.
    """
    noise = generator.standard_exponential(probabilities.shape, dtype=np.float32)
    ranked = probabilities / np.maximum(noise, np.finfo(np.float32).tiny)
    if count == 1:
        return ranked.argmax(-1)[:, None]
    return np.argsort(-ranked, axis=-1, kind="stable")[:, :count]


def sample_tokens(
    logits: NDArray[Any],
    *,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
    confidence: str,
    generator: np.random.Generator,
) -> tuple[NDArray[Any], Ids]:
    """Draws one token per row and says how sure the model is of it.

    The order is temperature, top_p, top_k; the filters act at temperature 0 too, where they change only the
    confidence, which is measured on the filtered probabilities.

    Args:
        logits: [N, vocab].
        temperature: 0 = the most probable token, no random number is drawn.
        top_p: None or 1 = off.
        top_k: None = off.
        confidence: "probability" of the drawn token, "margin" of the two largest probabilities, or
            "negative_entropy" in nats.
        generator: Source of random numbers.

    Returns:
        Confidences [N] in the dtype of the logits, and token ids [N] int64.
    """
    if temperature > 0:
        logits = logits / logits.dtype.type(temperature)
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if temperature == 0 and confidence == "probability":
        tokens, sureness = greedy(logits, by_probability=True)
        return sureness, tokens
    probabilities = softmax(logits)
    if temperature > 0:
        normalised = probabilities / probabilities.sum(-1, keepdims=True)
        tokens = draw_order(normalised, 1, generator)[:, 0]
    else:
        tokens = probabilities.argmax(-1)
    sureness = np.take_along_axis(probabilities, tokens[:, None], -1)[:, 0]
    if confidence == "margin":
        two = np.partition(probabilities, -2, axis=-1)[:, -2:]
        sureness = two[:, 1] - two[:, 0]
    elif confidence == "negative_entropy":
        tiny = probabilities.dtype.type(1e-10)
        sureness = (probabilities * np.log(probabilities + tiny)).sum(-1)
    return sureness, tokens
