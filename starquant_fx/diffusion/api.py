"""``generate``: one call for every model, the sampler chosen by the model's type."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

from rich.console import Console
from torch import Tensor

from starquant_fx.diffusion.dream import dream_generate
from starquant_fx.diffusion.llada import llada_generate
from starquant_fx.diffusion.stepping import (
    GenerationResult,
    StepCallback,
    StepRecorder,
    evaluating,
)
from starquant_fx.errors import InputError
from starquant_fx.model_facts import is_shifted, not_a_model
from starquant_fx.sampling import arguments as checks
from starquant_fx.sampling.views import LiveView, ProgressView

DREAM_OUTPUT_OPTIONS = ("return_dict_in_generate", "output_history")


@overload
def generate(
    model: Callable[..., Any],
    prompt_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    return_dict: Literal[True],
    progress: bool | None = None,
    live: Any = None,
    on_step: StepCallback | None = None,
    **arguments: Any,
) -> GenerationResult: ...


@overload
def generate(
    model: Callable[..., Any],
    prompt_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    return_dict: Literal[False] = False,
    progress: bool | None = None,
    live: Any = None,
    on_step: StepCallback | None = None,
    **arguments: Any,
) -> Tensor: ...


def generate(
    model: Callable[..., Any],
    prompt_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    return_dict: bool = False,
    progress: bool | None = None,
    live: Any = None,
    on_step: StepCallback | None = None,
    **arguments: Any,
) -> Tensor | GenerationResult:
    """Completes prompts with a masked diffusion language model.

    The sampler is LLaDA's, or Dream's for a model whose ``config.model_type`` is "Dream"; any other
    masked language model is sampled as LLaDA is. Gradients are off, modules are in evaluation mode
    during the call.

    Args:
        model: Any callable ``(input_ids, attention_mask=...)`` that returns logits [B, L, vocab] or
            an object with ``.logits``. Its ``config``, where there is one, gives the [MASK] id, the
            vocabulary and maximal length.
        prompt_ids: [B, L] token ids. A single prompt is a batch of one, ``ids.unsqueeze(0)``; [L]
            is refused.
        attention_mask: [B, L], 1 = keep, 0 = padding, which belongs on the left.
        return_dict: Return a ``GenerationResult`` with the ids and confidences of every step.
        progress: Draw a progress bar with the time left; None = only where standard error is a
            terminal.
        live: A tokenizer: show the text while it is unmasked.
        on_step: Called after every step with (step, total, ids, confidence).
        **arguments: The sampler's, by their published names; see ``llada_generate`` and
            ``dream_generate``. For Dream also ``return_dict_in_generate`` and ``output_history``,
            which together return a ``GenerationResult`` with ``history``; each alone does what it
            does in the published code.

    Returns:
        [B, L_total] int64 ids, prompt included, on the model's device, or a ``GenerationResult``.

    Raises:
        InputError: An argument is unknown or does not fit; nothing was generated.
    """
    if not callable(model):
        raise not_a_model(model, "a callable (input_ids, attention_mask=...) that returns logits")
    own = [*argument_names(model), *(DREAM_OUTPUT_OPTIONS if is_shifted(model) else ())]
    checks.check_names(arguments, [*own, "return_dict", "progress", "live", "on_step"])
    _check_types(return_dict, progress, live, on_step)
    as_dict, history = (
        checks.flag(name, arguments.pop(name, False)) for name in DREAM_OUTPUT_OPTIONS
    )

    recorder = StepRecorder() if return_dict or (as_dict and history) else None
    view = step_view(model, prompt_ids, attention_mask, progress, live, arguments)
    callbacks: list[StepCallback] = [c for c in (recorder, view, on_step) if c is not None]
    with evaluating(model), view or contextlib.nullcontext():

        def report(step: int, total: int, ids: Tensor, confidence: Tensor) -> None:
            for callback in callbacks:
                callback(step, total, ids, confidence)

        ids: Tensor = _sampler(model)(
            model, prompt_ids, attention_mask, on_step=report if callbacks else None, **arguments
        )
    if recorder is not None:
        return recorder.result(ids)
    return GenerationResult(ids) if as_dict else ids


def _sampler(model: object) -> Callable[..., Tensor]:
    return dream_generate if is_shifted(model) else llada_generate


def argument_names(model: object) -> list[str]:
    """Names of the arguments that the sampler of a model has of its own."""
    return checks.names_of(_sampler(model))


def _check_types(return_dict: Any, progress: Any, live: Any, on_step: Any) -> None:
    """Raises an InputError for the first of these arguments that is of another kind than it should be."""
    checks.flag("return_dict", return_dict)
    if progress is not None:
        checks.flag("progress", progress)
    for name, value, fits, expected in (
        ("live", live, hasattr(live, "decode"), "a tokenizer, or None"),
        ("on_step", on_step, callable(on_step), "a callable (step, total, ids, confidence)"),
    ):
        if value is not None and not fits:
            raise InputError(
                f"{name} is not usable",
                where=name,
                expected=expected,
                got=repr(value),
                hint="leave the argument out to watch nothing",
            )


def step_view(
    model: Callable[..., Any],
    prompt_ids: Tensor,
    attention_mask: Tensor | None,
    progress: bool | None,
    live: Any,
    arguments: Mapping[str, Any],
) -> LiveView | ProgressView | None:
    """The live view, the progress bar, or None, as asked for; the arguments are those of ``generate``."""
    if live is None:
        shown = Console(stderr=True).is_terminal if progress is None else progress
        return ProgressView() if shown else None
    name = "mask_token_id" if is_shifted(model) else "mask_id"
    mask_id = checks.token_id(model, name, arguments.get(name), "mask_token_id")
    return LiveView(live, prompt_ids, attention_mask, mask_id, bar=progress is not False)
