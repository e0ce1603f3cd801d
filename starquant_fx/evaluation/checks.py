"""Refusals before anything is computed: models, tokenizer, segments and masks that do not fit each other."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from starquant_fx.errors import InputError
from starquant_fx.evaluation.alignment import Model
from starquant_fx.evaluation.masks import MaskPlan
from starquant_fx.model_facts import check_ids, mask_token_of, maximum_length


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
    require_segments(segments)
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


def require_segments(segments: Tensor, least: int = 1) -> None:
    """Checks the form of segments.

    Args:
        segments: To be token ids [N, L].
        least: Fewest segments N.

    Raises:
        InputError: Another shape or dtype, nothing in it, or fewer segments.
    """
    if segments.dim() != 2 or segments.is_floating_point() or not segments.numel():
        raise InputError(
            "the segments have a wrong form",
            where="segments",
            expected="token ids of shape [N, L]",
            got=f"{segments.dtype} of shape {list(segments.shape)}",
        )
    if len(segments) < least:
        raise InputError(
            "the text has too few segments",
            where="text",
            expected=f"{least} segments of {segments.shape[1]} tokens or more",
            got=str(len(segments)),
            hint="use a longer text or shorter segments",
        )


def _mask_id(name: str, model: Model, segments: Tensor) -> int:
    """Checks one model against the segments and returns its [MASK] id."""
    where = f"model {name!r}"
    mask_id = mask_token_of(model)
    if mask_id is None:
        raise InputError(
            f"{name!r} has no mask token",
            where=where,
            expected="config.mask_token_id, a token id",
            got="none",
            hint="set model.config.mask_token_id",
        )
    longest = maximum_length(model)
    if longest is not None and segments.shape[1] > longest:
        raise InputError(
            f"the segments are longer than the maximum of {name!r}",
            where=where,
            expected=f"at most {longest} tokens a segment",
            got=f"{segments.shape[1]} tokens",
            hint="cut shorter segments",
        )
    check_ids(segments, model, where)
    if bool((segments == mask_id).any()):
        raise InputError(
            "the segments contain the mask token, which is nothing to predict",
            where="segments",
            expected=f"text without token {mask_id}",
            got=f"{int((segments == mask_id).sum())} mask tokens",
        )
    return mask_id
