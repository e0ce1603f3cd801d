"""From what a user passes as ``calibration`` to calibration data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from starquant_fx.calibration.data import CalibrationData
from starquant_fx.calibration.fit_cache import FitCache, remembered
from starquant_fx.calibration.states import own_generations, rollout
from starquant_fx.devices import Draws
from starquant_fx.errors import CalibrationError, InputError
from starquant_fx.model_facts import check_ids, check_tokenizer, is_shifted, maximum_length
from starquant_fx.recipe import CalibrationOptions

Calibration = Sequence[str] | Tensor | None
"""Texts, token ids [N, L], or None for the model's own generations."""


@torch.no_grad()
def prepare(
    model: nn.Module,
    calibration: Calibration,
    tokenizer: Any,
    mask_token_id: int | None,
    options: CalibrationOptions,
    cache: FitCache | None = None,
) -> CalibrationData:
    """Makes calibration data.

    Args:
        model: The full-precision model.
        calibration: See ``Calibration``. Rows of ids may be padded at either end with the config's pad token.
        tokenizer: Needed for texts.
        mask_token_id: None if the model's token state is an input.
        options: How many states, how long, which seed.
        cache: Keeps generated texts and rolled-out states between compilations.

    Returns:
        States of mask ratios between 0 and 1.

    Raises:
        CalibrationError: The calibration is empty or of another kind, texts come without a tokenizer, or the model's
            logits are not finite.
        InputError: Token ids are out of range or too long, or the tokenizer is another model's.
    """
    shifted = is_shifted(model)
    weights = {} if cache is None else {n: p.detach() for n, p in model.named_parameters()}

    def kept(kind: str, texts: dict[str, Tensor], make: Callable[[], Tensor]) -> Tensor:
        values = [kind, dataclasses.asdict(options), length, mask_token_id, shifted]
        return remembered(cache, {**weights, **texts}, values, lambda: ({"ids": make()}, {}))[0][
            "ids"
        ]

    length = _length(model, options)
    given = given_texts(model, calibration, tokenizer, mask_token_id, options)
    if given is None:
        assert mask_token_id is not None  # given_texts refuses a model without one
        generated = partial(
            own_generations,
            model,
            options.samples,
            length,
            mask_token_id,
            seed=options.seed,
            shifted=shifted,
        )
        groups = [kept("texts", {}, generated)]
    else:
        groups = given
    if mask_token_id is None:
        return _with_state_input(groups, options)
    states = [
        kept(
            "states",
            {"texts": group},
            partial(
                rollout,
                model,
                group,
                mask_token_id,
                steps=options.rollout_steps,
                seed=options.seed + i,
                shifted=shifted,
                strata=options.strata,
                step_strata=options.step_strata,
            ),
        )
        for i, group in enumerate(groups)
    ]
    return CalibrationData(
        states,
        max_tokens=options.max_tokens,
        seed=options.seed,
        texts=groups,
        shifted=shifted,
    )


def given_texts(
    model: nn.Module,
    calibration: Calibration,
    tokenizer: Any,
    mask_token_id: int | None,
    options: CalibrationOptions,
) -> list[Tensor] | None:
    """The token ids of a calibration, checked, before the model runs.

    Args:
        model: As of ``prepare``, and so are the others.
        calibration: See ``Calibration``.
        tokenizer: Needed for texts.
        mask_token_id: None if the model's token state is an input.
        options: How many, how long.

    Returns:
        Groups [N, L] of one length each; None where the model makes its own texts.

    Raises:
        CalibrationError: As ``prepare``.
        InputError: As ``prepare``.
    """
    if calibration is None:
        if mask_token_id is None:
            raise CalibrationError(
                "a model without a mask token cannot generate its own calibration texts",
                where="calibration",
                expected="a LongTensor [N, L] of token ids",
                got="None",
                hint="pass token ids, or the mask token with mask_token_id",
            )
        return None
    if isinstance(calibration, Tensor):
        ids = check_ids(calibration, model, "calibration")
        pad = getattr(getattr(model, "config", None), "pad_token_id", None)
        groups = _one_length(ids, pad, options)
        _check_lengths(groups, maximum_length(model))
        return groups
    groups = [_tokenized(_texts(calibration), tokenizer, _length(model, options), options)]
    check_tokenizer(tokenizer, model, mask_token_id)
    check_ids(groups[0], model, "calibration")
    _check_unmasked(groups[0], mask_token_id)
    return groups


def check_kind(calibration: object) -> None:
    """Raises a CalibrationError for what is none of the kinds that ``Calibration`` names."""
    if calibration is not None and not isinstance(calibration, Tensor):
        _texts(calibration)


def _length(model: nn.Module, options: CalibrationOptions) -> int:
    """Tokens of a sequence, as many as the model takes at most."""
    return min(options.length, maximum_length(model) or options.length)


def _texts(calibration: object) -> list[str]:
    """The texts of a calibration that is no tensor; one string is one text."""
    given = [calibration] if isinstance(calibration, str) else calibration
    if not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise CalibrationError(
            "the calibration is of an unknown kind",
            where="calibration",
            expected="texts or token ids: a list of strings, a LongTensor [N, L], or None",
            got=f"a {type(calibration).__name__}",
            hint="put texts into a list, or leave the argument out",
        )
    return list(given)


def _tokenized(
    texts: list[str], tokenizer: Any, length: int, options: CalibrationOptions
) -> Tensor:
    """Packs texts into [N, length] segments, drawn evenly over them."""
    if not any(t.strip() for t in texts):
        raise CalibrationError(
            "the calibration texts are empty",
            where="calibration",
            expected="texts of a few thousand tokens",
            got=f"{len(texts)} texts",
            hint="pass texts, or leave the argument out",
        )
    if tokenizer is None:
        raise CalibrationError(
            "calibration texts need a tokenizer",
            where="calibration",
            expected="compile(..., calibration=texts, tokenizer=tokenizer)",
            got="no tokenizer",
            hint="or pass token ids as a LongTensor [N, L]",
        )
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    stream: list[int] = []
    for text in texts:
        stream += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        stream += [] if end is None else [end]
    if len(stream) - len(texts) * (end is not None) < 2:
        raise CalibrationError(
            "the calibration texts are empty: the tokenizer makes one token of them at most",
            where="calibration",
            expected="two tokens or more; a few thousand for useful estimates",
            got=f"{len(texts)} texts",
            hint="pass longer texts, or the tokenizer that belongs to the model",
        )
    length = min(length, len(stream))
    segments = torch.tensor(stream[: len(stream) // length * length]).view(-1, length)
    return segments[Draws(options.seed).permutation(len(segments))[: options.samples]]


def _check_unmasked(ids: Tensor, mask_token_id: int | None) -> None:
    """Raises a CalibrationError for a text that spells the mask token."""
    found = int((ids == mask_token_id).sum()) if mask_token_id is not None else 0
    if found:
        raise CalibrationError(
            "the calibration texts spell the mask token, which is nothing to predict",
            where="calibration",
            expected=f"texts without token {mask_token_id}",
            got=f"{found} mask tokens",
            hint="take the mask token out of the texts",
        )


def _one_length(ids: Tensor, pad: int | None, options: CalibrationOptions) -> list[Tensor]:
    """Strips padding at both ends of each row and cuts the rows to the length that keeps most tokens.

    One length for all keeps mask ratios stratified over all rows, and lets TAC pair all of them in one run.
    """
    if ids.dim() != 2 or not ids.numel():
        raise CalibrationError(
            "the calibration data has a wrong shape",
            where="calibration",
            expected="token ids [N, L], N and L at least 1",
            got=str(list(ids.shape)),
            hint="one sequence is ids[None]",
        )
    texts: list[Tensor] = []
    for row in ids[: options.samples].to(torch.get_default_device()):
        kept = torch.nonzero(row != pad).flatten() if pad is not None else torch.arange(row.numel())
        if kept.numel():
            texts.append(row[int(kept[0]) : int(kept[-1]) + 1])
    lengths = sorted((t.numel() for t in texts), reverse=True)
    if not lengths:
        raise CalibrationError(
            "the calibration data is empty: every row that is used is padding",
            where="calibration",
            expected="at least one sequence of token ids",
            got=f"{min(len(ids), options.samples)} rows of the pad token {pad}",
            hint="pass other ids, or None to use the model's own generations",
        )
    best = max(range(len(lengths)), key=lambda i: (i + 1) * lengths[i])
    return [torch.stack([t[: lengths[best]] for t in texts if t.numel() >= lengths[best]])]


def _check_lengths(groups: list[Tensor], longest: int | None) -> None:
    length = max((group.shape[1] for group in groups), default=0)
    if longest is not None and length > longest:
        raise InputError(
            "a calibration sequence is longer than the model's maximum",
            where="calibration",
            expected=f"at most {longest} tokens",
            got=f"{length} tokens",
            hint="cut the sequences",
        )


def _with_state_input(groups: list[Tensor], options: CalibrationOptions) -> CalibrationData:
    """Draws token states of even ratios for a model that takes the state as an input."""
    draws = Draws(options.seed)
    states = []
    for group in groups:
        ratio = (draws.permutation(len(group)) + 0.5) / len(group)
        states.append((draws.uniform(*group.shape) < ratio[:, None]).long())
    return CalibrationData(
        groups, states, max_tokens=options.max_tokens, seed=options.seed, texts=groups
    )
