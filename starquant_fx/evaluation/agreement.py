"""How closely models follow a reference on masked tokens, and the truth, by mask ratio."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from starquant_fx.errors import InputError, nearest
from starquant_fx.evaluation.alignment import Model, masked_log_probabilities
from starquant_fx.evaluation.checks import require_fit
from starquant_fx.evaluation.masks import MaskPlan, batch_count, masked_batches
from starquant_fx.progress import track


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Means over the masked tokens of each segment, float64 [R, N], R mask ratios.

    Attributes:
        top1: Share of masked tokens whose most likely token is the reference's.
        kl: KL(reference || model) of the predicted distributions, nats.
        accuracy: Share of masked tokens whose most likely token is the true one.
        drift: |p_max - p_max of the reference|, p_max the probability of the most likely token.
        signed_drift: p_max - p_max of the reference; above 0 the model is too sure of itself.
    """

    top1: Tensor
    kl: Tensor
    accuracy: Tensor
    drift: Tensor
    signed_drift: Tensor


FIELDS = tuple(field.name for field in dataclasses.fields(Agreement))


def agreement(
    models: Mapping[str, Model],
    segments: Tensor,
    plan: MaskPlan,
    reference: str = "full precision",
    *,
    batch: int = 8,
) -> dict[str, Agreement]:
    """Compares models with a reference, all models on one batch before the next batch.

    The reference predicts each batch once and nothing but figures outlives a batch.

    Args:
        models: Name -> denoiser, the reference among them.
        segments: [N, L] token ids, without padding.
        plan: Masks for these segments.
        reference: Name of the reference.
        batch: Segments a forward pass; memory grows with batch · L · V.

    Returns:
        The figures of every model, the reference's own included.

    Raises:
        InputError: Models, segments and plan do not fit each other, or there is no such reference.
        StarQuantError: A model's logits give no finite loss.
    """
    require_reference(models, reference)
    mask_id = require_fit(models, segments, plan)
    shape = plan.at_ratio.shape[:2]
    figures = {
        name: Agreement(*(torch.zeros(shape, dtype=torch.float64) for _ in FIELDS))
        for name in models
    }
    batches = masked_batches(segments, plan.at_ratio, mask_id, batch)
    for masked in track(batches, f"agreement with {reference}", batch_count(plan.at_ratio, batch)):
        expected = masked_log_probabilities(models[reference], masked, reference)
        surest, wanted = expected.max(-1)
        here = masked.which, masked.rows
        for name, model in models.items():
            given = expected
            if name != reference:
                given = masked_log_probabilities(model, masked, name).to(expected.device)
            require_vocabulary(name, given, reference, expected)
            sureness, best = given.max(-1)
            drift = sureness.exp() - surest.exp()
            own = figures[name]
            own.top1[here] = masked.means(best == wanted)
            own.kl[here] = masked.means(divergence(expected, given))
            own.accuracy[here] = masked.means(best.cpu() == masked.targets)
            own.drift[here] = masked.means(drift.abs())
            own.signed_drift[here] = masked.means(drift)
    return figures


def divergence(expected: Tensor, given: Tensor) -> Tensor:
    """KL divergence of each row: sum of p · (log p - log q).

    Args:
        expected: [M, V] log p; -inf stands for a probability of 0.
        given: [M, V] log q.

    Returns:
        [M], nats.
    """
    terms = (expected - given).mul_(expected.exp())
    return terms.masked_fill_(expected == -torch.inf, 0.0).sum(-1)


def require_reference(models: Mapping[str, Model], reference: str) -> None:
    """Raises an InputError if the reference is not among the models."""
    if reference not in models:
        raise InputError(
            f"there is no model {reference!r} to compare with",
            where="reference",
            expected=" | ".join(models),
            got=repr(reference),
            hint=nearest(reference, models),
        )


def require_vocabulary(name: str, given: Tensor, reference: str, expected: Tensor) -> None:
    """Raises an InputError if two models' predictions [M, V] are not of the same tokens."""
    if given.shape != expected.shape:
        raise InputError(
            f"{name!r} and {reference!r} have different vocabularies",
            where=f"model {name!r}",
            expected=f"{expected.shape[1]} logits a token",
            got=str(given.shape[1]),
        )
