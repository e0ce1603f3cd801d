"""What both samplers share: calling the model, reporting a step, recording all of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.errors import InputError, StarQuantError
from starquant_fx.operators import op

StepCallback = Callable[[int, int, Tensor, Tensor], None]
"""Called after every denoising step with (step, total, ids, confidence).

``step`` counts from 1 to ``total``; ``ids`` [B, L] int64 are the ids after the step; ``confidence``
[B, L] is what the sampler ranked (or gave to) the candidates of the step, -inf where a position was
no candidate.
"""


@dataclasses.dataclass(frozen=True)
class GenerationResult:
    """What ``generate`` returns when more than the ids is asked for.

    Attributes:
        sequences: [B, L_total] int64 ids, prompt included.
        states: [steps, B, L_total] int64 ids after each step, or None if not recorded.
        confidences: [steps, B, L_total] confidences of each step, -inf where a position was no
            candidate, or None if not recorded.
    """

    sequences: Tensor
    states: Tensor | None = None
    confidences: Tensor | None = None

    @property
    def history(self) -> tuple[Tensor, ...] | None:
        """The states as a tuple of [B, L_total] tensors, as Dream's published code returns them."""
        return None if self.states is None else self.states.unbind(0)


class StepRecorder:
    """A step callback that keeps every state and confidence."""

    def __init__(self) -> None:
        self._states: list[Tensor] = []
        self._confidences: list[Tensor] = []

    def __call__(self, step: int, total: int, ids: Tensor, confidence: Tensor) -> None:
        """Keeps one step."""
        self._states.append(ids.clone())  # callbacks that come later may write into them
        self._confidences.append(confidence.clone())

    def result(self, sequences: Tensor) -> GenerationResult:
        """Returns the recorded steps together with the final ids [B, L_total]."""
        return GenerationResult(
            sequences, torch.stack(self._states), torch.stack(self._confidences)
        )


def model_logits(
    model: Callable[..., Any],
    ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """Calls a denoiser and returns its logits.

    Args:
        model: Any callable that takes ``(input_ids, attention_mask=...)``, and ``position_ids=...``
            when there are any, and returns a tensor or an object with ``.logits``.
        ids: [B, L] int64.
        attention_mask: Passed on.
        position_ids: Passed on unless None.

    Returns:
        [B, L, vocab] logits.

    Raises:
        InputError: The model returned something else.
    """
    if position_ids is None:
        output = model(ids, attention_mask=attention_mask)
    else:
        output = model(ids, attention_mask=attention_mask, position_ids=position_ids)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != ids.shape:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise InputError(
            "the model did not return logits for every position",
            where="model(input_ids, attention_mask=...)",
            expected=f"a tensor or .logits of shape [{ids.shape[0]}, {ids.shape[1]}, vocab]",
            got=str(got),
            hint="wrap the model in a function that returns them",
        )
    return logits


def logits_at(
    model: Callable[..., Any],
    rows: Tensor,
    ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """Calls a denoiser for its logits at some positions; one that has a method ``logits_at`` computes no others.

    Args:
        model: As in ``model_logits``.
        rows: [R] int64, positions in the flattened [B L].
        ids: [B, L] int64.
        attention_mask: Passed on.
        position_ids: Passed on unless None.

    Returns:
        [R, vocab] logits.

    Raises:
        InputError: As ``model_logits``.
    """
    own = getattr(model, "logits_at", None)
    if own is None:
        return model_logits(model, ids, attention_mask, position_ids).flatten(0, 1)[rows]
    given = {} if position_ids is None else {"position_ids": position_ids}
    logits: Tensor = own(rows, ids, attention_mask=attention_mask, **given)
    return logits


def greedy_at(
    model: Callable[..., Any],
    rows: Tensor,
    ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable token at some positions; a model with a method ``greedy_at`` may do without their logits.

    Args:
        model: As in ``model_logits``.
        rows: [R] int64, positions in the flattened [B L].
        ids: [B, L] int64.
        attention_mask: Passed on.
        position_ids: Passed on unless None.

    Returns:
        The largest logit [R], the token [R] and its probability [R], as ``reference.greedy`` says.

    Raises:
        InputError: As ``model_logits``.
    """
    own = getattr(model, "greedy_at", None)
    if own is None:
        return op("greedy")(logits_at(model, rows, ids, attention_mask, position_ids), False)
    given = {} if position_ids is None else {"position_ids": position_ids}
    return own(rows, ids, attention_mask=attention_mask, **given)


def random_source(name: str, value: Any) -> torch.Generator | None:
    """Returns ``value`` if it is a torch.Generator or None, else raises an InputError."""
    if not isinstance(value, torch.Generator | None):
        raise InputError(
            f"{name} is not usable",
            where=name,
            expected="a torch.Generator, or None for torch's global one",
            got=repr(value),
            hint="torch.Generator().manual_seed(...)",
        )
    return value


def require_numbers(logits: Tensor, step: int) -> None:
    """Raises a StarQuantError if the logits of a denoising step contain NaN; -inf is allowed.

    Args:
        logits: [R, vocab], or the largest of each row [R].
        step: Counts from 1.

    Raises:
        StarQuantError: There is a NaN.
    """
    strange = (logits.amax(-1) if logits.dim() == 2 else logits).isnan()
    if bool(strange.any()):
        raise logits_with_nan(step, f"{int(strange.sum())} positions with NaN")


def logits_with_nan(step: int, got: str = "NaN") -> StarQuantError:
    """The refusal of NaN in a step's logits."""
    return StarQuantError(
        "the model's logits contain NaN",
        where=f"denoising step {step}",
        expected="numbers",
        got=got,
        hint="check the weights, and try a wider dtype if the model runs in float16",
    )


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Puts the model's modules into evaluation mode and each back into its own mode at the end."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
