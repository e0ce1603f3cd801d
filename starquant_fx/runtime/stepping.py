"""What both samplers share: calling the denoiser, the greedy choice, the surest positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.runtime.inputs import Ids, describe

StepCallback = Callable[[int, int, Ids, NDArray[Any]], None]
"""Called after every denoising step with (step, total, ids, confidence).

``step`` counts from 1 to ``total``; ``ids`` [B, L] int64 are the ids after the step; ``confidence`` [B, L] is what the
sampler ranked (or gave to) the candidates of the step, -inf where a position was no candidate.
"""


def logits_at(
    model: Callable[..., Any],
    rows: Ids,
    ids: Ids,
    attention_mask: NDArray[Any] | None,
    position_ids: Ids | None = None,
) -> NDArray[Any]:
    """Calls a denoiser for its logits at some positions; one that has a method ``logits_at`` computes no others.

    Args:
        model: Any callable that takes ``(input_ids, attention_mask=...)``, and ``position_ids=...`` when there are
            any, and returns logits [B, L, vocab].
        rows: [R] int64, positions in the flattened [B L].
        ids: [B, L] int64.
        attention_mask: Passed on.
        position_ids: Passed on unless None.

    Returns:
        [R, vocab] logits.

    Raises:
        InputError: The model returned something else.
    """
    given: dict[str, Any] = {"attention_mask": attention_mask}
    if position_ids is not None:
        given["position_ids"] = position_ids
    own = getattr(model, "logits_at", None)
    if own is not None:
        found: NDArray[Any] = own(rows, ids, **given)
        return found
    logits = model(ids, **given)
    if not isinstance(logits, np.ndarray) or logits.ndim != 3 or logits.shape[:2] != ids.shape:
        raise InputError(
            "the model did not return logits for every position",
            where="model(input_ids, attention_mask=...)",
            expected=f"an array of shape [{ids.shape[0]}, {ids.shape[1]}, vocab]",
            got=describe(logits),
            hint="wrap the model in a function that returns them",
        )
    return logits.reshape(-1, logits.shape[-1])[rows]


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Softmax over the last axis, in the type of the logits."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max(-1, keepdims=True))
    powers /= powers.sum(-1, keepdims=True)
    return powers


def greedy(logits: NDArray[Any], *, by_probability: bool) -> tuple[Ids, NDArray[Any]]:
    """The most probable token of every row.

    Args:
        logits: [R, vocab].
        by_probability: Among tokens whose probabilities are equal once rounded, take the first; else the first among
            those of the largest logit.

    Returns:
        Tokens [R] int64 and their probabilities [R].
    """
    probabilities = softmax(logits)
    tokens = (probabilities if by_probability else logits).argmax(-1)
    return tokens, np.take_along_axis(probabilities, tokens[:, None], -1)[:, 0]


def surest(confidence: NDArray[Any], count: int) -> Ids:
    """Columns [B, count] of the largest confidences [B, L] of every row; among equal ones the first."""
    return np.argsort(-confidence, axis=1, kind="stable")[:, :count]


def spread(
    where: NDArray[np.bool_], values: NDArray[Any], others: NDArray[Any] | float
) -> NDArray[Any]:
    """Puts values [R] at the R places [B, L] that are true; something else at all others."""
    whole = np.empty(where.shape, values.dtype)
    whole[...] = others
    whole[where] = values
    return whole


def need_greedy(model: object, reasons: Mapping[str, bool]) -> None:
    """Refuses options that need logits for a model that returns tokens only.

    Args:
        model: One that cannot give logits says so by ``gives_logits = False``.
        reasons: Option, as it is written with its value -> whether it needs logits.

    Raises:
        InputError: One does.
    """
    asked = [option for option, needs in reasons.items() if needs]
    if asked and not getattr(model, "gives_logits", True):
        raise InputError(
            "this export returns the most probable token only, which is not enough for these options",
            where=", ".join(option.partition("=")[0] for option in asked),
            expected="greedy generation, ranked by probability",
            got=", ".join(asked),
            hint="leave them out (Dream: alg='maskgit_plus' or 'origin'), or export with the head row-logits",
        )


def check_numbers(values: NDArray[Any], step: int) -> None:
    """Raises a StarQuantError if logits [R, vocab], or confidences [R], of a step contain NaN; -inf is allowed."""
    strange = np.isnan(values.max(-1) if values.ndim == 2 else values)
    if strange.any():
        raise StarQuantError(
            "the model's logits contain NaN",
            where=f"denoising step {step}",
            expected="numbers",
            got=f"{int(strange.sum())} positions with NaN",
            hint="check the weights that were exported",
        )


def random_source(value: Any) -> np.random.Generator:
    """Returns ``value`` if it is a numpy Generator, a new one for None; else raises an InputError."""
    if value is None:
        return np.random.default_rng()
    if not isinstance(value, np.random.Generator):
        raise InputError(
            "generator is not usable",
            where="generator",
            expected="a numpy.random.Generator, or None for other numbers each time",
            got=repr(value),
            hint="numpy.random.default_rng(seed)",
        )
    return value
