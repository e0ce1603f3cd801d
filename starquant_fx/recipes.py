"""The recipes that can be named: a method and its bits, ``star-w4a4``; or a file of one."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starquant_fx.errors import RecipeError, closest, nearest
from starquant_fx.methods import EXTRAS, METHODS, extended
from starquant_fx.pass_base import Pass, parse_pass
from starquant_fx.passes import REGISTRY
from starquant_fx.recipe import CalibrationOptions, Recipe, parse_bits

TEMPLATE = "`starquant-fx recipes star-w4a4 --json` prints one to start from"


def get_recipe(name: str | Recipe) -> Recipe:
    """Returns the recipe of a name such as ``star-w4a4``; a recipe is returned as it is.

    Args:
        name: ``<method>-w<bits>a<bits>``, bits 2..8 or 16; ``<method>+<extra>`` adds what ``EXTRAS`` names, and
            ``[<pattern>=<bits>,..]`` at the end gives some sites other bits (``star-w4a4[role:head=w8a8]``). What
            ends in ``.json`` is a file of what ``Recipe.to_dict`` returns.

    Returns:
        The recipe.

    Raises:
        RecipeError: Unknown method or extra (the nearest name is offered), malformed or impossible bits, or a file
            that holds no recipe.
    """
    if isinstance(name, Recipe):
        return name
    if isinstance(name, str) and name.endswith(".json"):
        return _from_file(Path(name))
    base, overrides = _overrides(name) if isinstance(name, str) else ("", ())
    text, _, bits = base.rpartition("-")
    method, extras = split_method("" if base in METHODS else text)
    if method is None:
        raise RecipeError(
            f"unknown recipe {name!r}",
            where="recipe",
            expected=f"<method>-w<bits>a<bits>, method one of {', '.join(METHODS)}",
            got=repr(name),
            hint=_nearest_recipe(base) or "`starquant-fx recipes` says what each method is",
        )
    recipe = METHODS[method](*parse_bits(bits, str(name)))
    for extra in extras:
        if extra not in EXTRAS:
            raise RecipeError(
                f"unknown extra {extra!r}",
                where=str(name),
                expected=", ".join(f"+{e}" for e in EXTRAS),
                got=f"+{extra}",
                hint=nearest(extra, EXTRAS) or "`starquant-fx recipes` says what each extra is",
            )
        recipe = extended(recipe, extra)
    return recipe.overriding(*overrides)


def _nearest_recipe(base: str) -> str | None:
    """A sentence that offers the method closest to a misspelt one; bits, which all methods share, are no likeness."""
    text, _, bits = base.rpartition("-")
    known_bits = re.fullmatch(r"w\d+a\d+", bits) is not None
    close = (
        closest(text, METHODS) if known_bits else closest(base, METHODS) or closest(text, METHODS)
    )
    return f"did you mean '{close}-{bits if known_bits else 'w4a4'}'?" if close else None


def recipe_names(text: str) -> list[str]:
    """Splits names at commas, but for those between brackets."""
    names = (name.strip() for name in re.split(r",(?![^\[]*\])", text))
    return [name for name in names if name]


def _overrides(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Splits ``star-w4a4[role:head=w8a8]`` into the name before the bracket and pairs of pattern and bits."""
    match = re.fullmatch(r"(.*?-w\d+a\d+)\[(.*)\]", name)
    if match is None:
        return name, ()
    pairs = [one.rpartition("=") for one in match[2].split(",")]
    return match[1], tuple((pattern, bits) for pattern, _, bits in pairs)


def split_method(text: str) -> tuple[str | None, list[str]]:
    """Splits ``quarot+center`` into method and extras; the longest method wins, because two end in a plus."""
    for method in sorted(METHODS, key=len, reverse=True):
        if text == method:
            return method, []
        if text.startswith(f"{method}+"):
            return method, text.removeprefix(f"{method}+").split("+")
    return None, []


def _from_file(path: Path) -> Recipe:
    """Reads a recipe's JSON file.

    Raises:
        RecipeError: It is missing, or holds no recipe.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            "the recipe cannot be read",
            where=str(path),
            expected="a JSON file",
            got=str(error),
            hint=TEMPLATE,
        ) from error
    if not isinstance(values, dict):
        raise RecipeError(
            "the file holds no recipe",
            where=str(path),
            expected="a JSON object",
            got=type(values).__name__,
            hint=TEMPLATE,
        )
    try:
        return from_dict(values)
    except RecipeError as error:
        error.where = str(path) if error.where is None else f"{path}: {error.where}"
        raise


def from_dict(values: dict[str, Any]) -> Recipe:
    """Reads what ``Recipe.to_dict`` wrote.

    Raises:
        RecipeError: Unknown or missing keys (the nearest name is offered), unknown passes or options, wrong version.
    """
    known = {f.name: f for f in dataclasses.fields(Recipe)}
    for key in values:
        if key not in known:
            raise RecipeError(
                f"unknown recipe key {key!r}",
                where="recipe",
                expected=", ".join(known),
                got=repr(key),
                hint=nearest(key, known) or TEMPLATE,
            )
    missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        raise RecipeError(
            f"the recipe lacks {', '.join(missing)}",
            where="recipe",
            expected=", ".join(known),
            got=", ".join(values) or "no keys",
            hint=TEMPLATE,
        )
    _check_types(values)
    options = dict(values)
    passes: tuple[Pass, ...] = tuple(parse_pass(text, REGISTRY) for text in options["passes"])
    calibration = dict(options.get("calibration", {}))
    fields = {f.name for f in dataclasses.fields(CalibrationOptions)}
    for key in calibration:
        if key not in fields:
            raise RecipeError(
                f"unknown calibration key {key!r}",
                where="calibration",
                expected=", ".join(fields),
                got=repr(key),
                hint=nearest(key, fields) or TEMPLATE,
            )
    for key in ("strata", "step_strata"):
        if isinstance(calibration.get(key), list):  # as JSON has them
            calibration[key] = tuple(calibration[key])
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
        "calibration": ("names to values", lambda v: isinstance(v, dict)),
    }
    for key, (expected, fits) in kinds.items():
        if key in values and not fits(values[key]):
            raise RecipeError(
                f"recipe key {key!r} has a wrong type",
                where=key,
                expected=expected,
                got=repr(values[key]),
                hint=TEMPLATE,
            )


def _all_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
