"""Refusals before anything is computed: models, segments and masks that do not fit each other."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from starquant_fx.diffusion.arguments import vocabulary_size
from starquant_fx.errors import InputError
from starquant_fx.evaluation.alignment import Model
from starquant_fx.evaluation.masks import MaskPlan

LENGTH_KEYS = ("max_sequence_length", "max_position_embeddings")


def require_fit(models: Mapping[str, Model], segments: Tensor, plan: MaskPlan) -> int:
    """Checks that the models can be evaluated on the segments under the plan.

    Args:
        models: Name -> model, at least one.
        segments: [N, L] token ids.
        plan: Masks.

    Returns:
        The id of [MASK], the same for all models.

    Raises:
        InputError: Something does not fit; the error names the model where it is one's fault.
    """
    if segments.dim() != 2 or segments.is_floating_point() or not segments.numel():
        raise InputError(
            "the segments have a wrong form",
            where="segments",
            expected="token ids of shape [N, L]",
            got=f"{segments.dtype} of shape {list(segments.shape)}",
        )
    for masks in (plan.likelihood, plan.at_ratio):
        if masks.shape[1:] != segments.shape:
            raise InputError(
                "the masks were drawn for other segments",
                where="plan",
                expected=f"masks for segments {list(segments.shape)}",
                got=f"masks for {list(masks.shape[1:])}",
                hint="mask_plan(*segments.shape, seed=...)",
            )
    ids = {name: _mask_id(name, model, segments) for name, model in models.items()}
    if len(set(ids.values())) != 1:
        raise InputError(
            "the models have different mask tokens",
            where="models",
            expected="one mask token and one tokenizer",
            got=", ".join(f"{name}: {mask}" for name, mask in ids.items()),
        )
    return next(iter(ids.values()))


def _mask_id(name: str, model: Model, segments: Tensor) -> int:
    """Checks one model against the segments and returns its [MASK] id."""
    config = getattr(model, "config", None)
    mask_id = getattr(config, "mask_token_id", None)
    if not isinstance(mask_id, int):
        raise InputError(
            f"{name!r} has no mask token",
            where=f"model {name!r}",
            expected="config.mask_token_id, a token id",
            got=repr(mask_id),
            hint="set model.config.mask_token_id",
        )
    limits = [getattr(config, key, None) for key in LENGTH_KEYS]
    longest = next((limit for limit in limits if isinstance(limit, int)), None)
    if longest is not None and segments.shape[1] > longest:
        raise InputError(
            f"the segments are longer than the maximum of {name!r}",
            where=f"model {name!r}",
            expected=f"at most {longest} tokens a segment",
            got=f"{segments.shape[1]} tokens",
            hint="cut shorter segments",
        )
    low, high, size = int(segments.min()), int(segments.max()), vocabulary_size(model)
    if low < 0 or (size is not None and high >= size):
        raise InputError(
            f"token ids are outside the vocabulary of {name!r}",
            where=f"model {name!r}",
            expected="0 or more" if size is None else f"0 to {size - 1}",
            got=f"{low} to {high}",
            hint="use the tokenizer that belongs to the model",
        )
    if bool((segments == mask_id).any()):
        raise InputError(
            "the segments contain the mask token, which is nothing to predict",
            where="segments",
            expected=f"text without token {mask_id}",
            got=f"{int((segments == mask_id).sum())} mask tokens",
        )
    return mask_id
