"""Logits of masked positions, aligned with the tokens they predict: the one way all metrics read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from starquant_fx.diffusion.stepping import evaluating, model_logits
from starquant_fx.errors import StarQuantError
from starquant_fx.evaluation.masks import MaskedBatch
from starquant_fx.model_facts import is_shifted, model_device

Model = Callable[..., Any]
"""Called with ids [B, L]; returns logits [B, L, V] or an object with ``.logits``; has ``config``."""


def logits_at(model: Model, input_ids: Tensor, at: Tensor) -> Tensor:
    """Computes the logits that predict some positions.

    Modules run in evaluation mode, without gradients, on their own device.

    Args:
        model: A denoiser. Dream's shifted logits are shifted back; its column 0 uses its own.
        input_ids: [B, L] int64.
        at: [B, L] bool, the positions.

    Returns:
        [M, V] logits in the model's dtype, row by row of ``at``.

    Raises:
        InputError: The model does not return logits for every position.
    """
    device = model_device(model, input_ids.device)
    with evaluating(model), torch.inference_mode():
        logits = model_logits(lambda ids, attention_mask: model(ids), input_ids.to(device), None)
        row, column = at.to(logits.device).nonzero(as_tuple=True)
        if is_shifted(model):
            column = (column - 1).clamp(min=0)
        return logits[row, column]


def masked_log_probabilities(model: Model, batch: MaskedBatch, name: str) -> Tensor:
    """Computes log-probabilities at the masked positions.

    Args:
        model: A denoiser.
        batch: Segments with masks.
        name: The model's name, for the error.

    Returns:
        [M, V] float32, in nats, on the model's device.

    Raises:
        StarQuantError: The logits are such that the loss of a true token is not a finite number.
    """
    log_probabilities = logits_at(model, batch.ids, batch.masked).float().log_softmax(-1)
    finite = true_token(log_probabilities, batch).isfinite()
    if not bool(finite.all()):
        raise StarQuantError(
            f"the logits of {name!r} give no finite loss",
            where=f"model {name!r}",
            expected="logits without NaN or Inf",
            got=f"{int((~finite).sum())} of {len(finite)} masked tokens without a finite loss",
            hint="check the weights, and try a wider dtype if the model runs in float16",
        )
    return log_probabilities


def true_token(log_probabilities: Tensor, batch: MaskedBatch) -> Tensor:
    """Picks the log-probabilities [M] of the true tokens out of [M, V]."""
    targets = batch.targets.to(log_probabilities.device)
    return log_probabilities.gather(1, targets[:, None])[:, 0]
