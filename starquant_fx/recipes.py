"""The recipes that can be named: a method and its bits, ``star-w4a4``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from starquant_fx.errors import RecipeError, nearest
from starquant_fx.pass_base import Pass, parse_pass
from starquant_fx.passes import (
    REGISTRY,
    AssignRoles,
    Canonicalize,
    EstimateMeans,
    FitSgat,
    FoldSgat,
    Fuse,
    InsertCentering,
    InsertPartition,
    InsertQuantizers,
    InsertSgat,
    InsertTac,
    InsertTokenState,
    MeasureSites,
)
from starquant_fx.recipe import CalibrationOptions, Recipe, parse_bits


def rtn(weight_bits: int, activation_bits: int) -> Recipe:
    """Round to nearest: the quantizers alone, nothing estimated."""
    passes = (Canonicalize(), AssignRoles(), InsertQuantizers(), FoldSgat(), MeasureSites(), Fuse())
    return Recipe(
        "rtn", weight_bits, activation_bits, passes, calibration=CalibrationOptions(samples=16)
    )


def star(weight_bits: int, activation_bits: int) -> Recipe:
    """SGAT (Kronecker, r > 0), state-conditioned centring, learned clipping and TAC: the best form found so far."""
    passes = (
        Canonicalize(),
        AssignRoles(),
        InsertTokenState(),
        InsertPartition(),
        InsertCentering(),
        EstimateMeans(),
        InsertSgat(structure="kronecker", size=128, rank=1, gated="o+down"),
        InsertQuantizers(clip=True),
        FitSgat(lr=1e-2),
        FoldSgat(),
        MeasureSites(),
        InsertTac(),
        Fuse(),
    )
    return Recipe("star", weight_bits, activation_bits, passes)


def star_paper(weight_bits: int, activation_bits: int) -> Recipe:
    """The paper's literal form: Gaussian-QR start, dense basis, no clipping, covariance TAC, 128 segments.

    Our guesses, because the text does not give them: r = 16, the learning rate 5e-3 and its cosine schedule, TAC's
    lambda, eps, alpha and beta. Adam works in the Lie algebra of the rotations, which keeps the basis orthogonal.
    """
    passes = (
        Canonicalize(),
        AssignRoles(),
        InsertTokenState(),
        InsertPartition(),
        InsertSgat(structure="dense", rank=16, start="gaussian"),
        InsertQuantizers(),
        FitSgat(aim=False),
        FoldSgat(),
        MeasureSites(),
        InsertTac(),
        Fuse(),
    )
    return Recipe(
        "star-paper",
        weight_bits,
        activation_bits,
        passes,
        calibration=CalibrationOptions(samples=128),
    )


METHODS: dict[str, Callable[[int, int], Recipe]] = {
    "rtn": rtn,
    "star": star,
    "star-paper": star_paper,
}
"""Method name -> builder from weight and activation bits."""


def get_recipe(name: str | Recipe) -> Recipe:
    """Returns the recipe of a name such as ``star-w4a4``; a recipe is returned as it is.

    Args:
        name: ``<method>-w<bits>a<bits>``, bits 2..8 or 16.

    Returns:
        The recipe.

    Raises:
        RecipeError: Unknown method (the nearest name is offered), malformed or impossible bits.
    """
    if isinstance(name, Recipe):
        return name
    method, _, bits = name.rpartition("-") if isinstance(name, str) else ("", "", "")
    if method not in METHODS:
        known = [f"{m}-w4a4" for m in METHODS]
        raise RecipeError(
            f"unknown recipe {name!r}",
            where="recipe",
            expected=f"<method>-w<bits>a<bits>, method one of {', '.join(METHODS)}",
            got=repr(name),
            hint=nearest(str(name), known),
        )
    return METHODS[method](*parse_bits(bits, name))


def from_dict(values: dict[str, Any]) -> Recipe:
    """Reads what ``Recipe.to_dict`` wrote.

    Raises:
        RecipeError: Unknown or missing keys (the nearest name is offered), unknown passes or options, wrong version.
    """
    known = {f.name: f for f in dataclasses.fields(Recipe)}
    for key in values:
        if key not in known:
            raise RecipeError(
                f"unknown recipe key {key!r}", expected=", ".join(known), hint=nearest(key, known)
            )
    missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        raise RecipeError(f"the recipe lacks {', '.join(missing)}", expected=", ".join(known))
    _check_types(values)
    options = dict(values)
    passes: tuple[Pass, ...] = tuple(parse_pass(text, REGISTRY) for text in options["passes"])
    calibration = options.get("calibration", {})
    fields = {f.name for f in dataclasses.fields(CalibrationOptions)}
    for key in calibration:
        if key not in fields:
            raise RecipeError(
                f"unknown calibration key {key!r}",
                expected=", ".join(fields),
                hint=nearest(key, fields),
            )
    options.update(
        passes=passes,
        calibration=CalibrationOptions(**calibration),
        ignore=tuple(options.get("ignore", ("role:head",))),
        overrides=tuple(dict(options.get("overrides", {})).items()),
    )
    return Recipe(**options)


def _check_types(values: dict[str, Any]) -> None:
    """Refuses what JSON can hold and a recipe cannot; bits and the version have checks of their own."""
    texts = ("a list of texts", lambda v: isinstance(v, (list, tuple)) and _all_texts(v))
    kinds: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "method": ("a text", lambda v: isinstance(v, str)),
        "passes": texts,
        "symmetric": ("true or false", lambda v: isinstance(v, bool)),
        "ignore": texts,
        "overrides": (
            "patterns to bits",
            lambda v: isinstance(v, dict) and _all_texts((*v, *v.values())),
        ),
        "calibration": ("names to integers", lambda v: isinstance(v, dict)),
    }
    for key, (expected, fits) in kinds.items():
        if key in values and not fits(values[key]):
            raise RecipeError(
                f"recipe key {key!r} has a wrong type", expected=expected, got=repr(values[key])
            )


def _all_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
