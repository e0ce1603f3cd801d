"""Checks of generation arguments, with errors that say what to do."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from starquant_fx.config_facts import is_shifted, vocabulary_size
from starquant_fx.errors import InputError, nearest

DEFAULT = "leave the argument out for its default"


def as_integer(value: object) -> int | None:
    """An integer, numpy's too, as int; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Returns an integer, numpy's too, as int; an InputError if it is none, or outside of the limits.

    Args:
        name: The argument's name.
        value: What the caller gave.
        minimum: Smallest value.
        maximum: Largest value; None = any.
    """
    whole = as_integer(value)
    if whole is None or whole < minimum or (maximum is not None and whole > maximum):
        most = "" if maximum is None else f" and at most {maximum}"
        raise InputError(
            f"{name} is not usable",
            where=name,
            expected=f"an integer, at least {minimum}{most}",
            got=repr(value),
            hint=DEFAULT,
        )
    return whole


def number(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Returns a number, numpy's too, as a finite float within the limits, else raises an InputError.

    Args:
        name: The argument's name.
        value: What the caller gave.
        low: Smallest value.
        high: Largest value.
        open_low: ``low`` itself is excluded.
        open_high: ``high`` itself is excluded.
    """
    found = _finite(value)
    inside = found is not None and low <= found <= high
    if found is None or not inside or (open_low and found == low) or (open_high and found == high):
        left = "(" if open_low else "["
        right = ")" if open_high or math.isinf(high) else "]"
        raise InputError(
            f"{name} is not usable",
            where=name,
            expected=f"a number in {left}{low:g}, {high:g}{right}",
            got=repr(value),
            hint=DEFAULT,
        )
    return found


def _finite(value: Any) -> float | None:
    """A number as float; None if it is none, or none that a float holds."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def flag(name: str, value: Any) -> bool:
    """Returns ``value`` if it is True or False, else raises an InputError."""
    if not isinstance(value, bool):
        raise InputError(
            f"{name} is not usable",
            where=name,
            expected="True or False",
            got=repr(value),
            hint=DEFAULT,
        )
    return value


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``known``, else an InputError offers the nearest."""
    names = list(known)
    if value not in names:
        raise InputError(
            f"unknown {name} {value!r}",
            where=name,
            expected=" | ".join(names),
            got=repr(value),
            hint=nearest(str(value), names) or DEFAULT,
        )
    return str(value)


def token_id(model: object, name: str, value: Any, key: str, published: int | None = None) -> int:
    """Finds a special token's id: as given, else as configured, else the published model's.

    Args:
        model: Its ``config`` is read where there is one.
        name: The argument's name, for the error.
        value: What the caller gave; None asks for the default.
        key: The configuration's key.
        published: Last resort, used only if it lies inside the model's vocabulary.

    Returns:
        The id.

    Raises:
        InputError: No id is known, or it lies outside the vocabulary.
    """
    config = getattr(model, "config", None)
    size = vocabulary_size(model)
    found: Any = value if value is not None else getattr(config, key, None)
    if found is None and published is not None and size is not None and published < size:
        found = published
    whole = as_integer(found)
    if whole is None or whole < 0 or (size is not None and whole >= size):
        raise InputError(
            f"no usable {name}",
            where=name,
            expected="a token id" if size is None else f"a token id below {size}",
            got=repr(found),
            hint=f"give {name}=... or set model.config.{key}",
        )
    return whole


def names_of(sampler: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a sampler has of its own."""
    parameters = inspect.signature(sampler).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "on_step"]


def check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Raises an InputError for the first argument name that is not known; the nearest one is offered."""
    for name in given:
        if name not in known:
            raise InputError(
                f"unknown generation argument {name!r}",
                where=name,
                expected=", ".join(known),
                got=repr(name),
                hint=nearest(name, known) or "the samplers take no others",
            )


def sampler_arguments(model: object, new_tokens: int, steps: int) -> dict[str, Any]:
    """Greedy generation of so many tokens in so many steps, in the published argument names of a model's sampler."""
    return greedy_arguments(is_shifted(model), new_tokens, steps)


def greedy_arguments(dream: bool, new_tokens: int, steps: int) -> dict[str, Any]:
    """The same for Dream's sampler or for LLaDA's."""
    if dream:
        return {"max_new_tokens": new_tokens, "steps": steps, "alg": "entropy", "temperature": 0.0}
    return {"gen_length": new_tokens, "block_length": new_tokens, "steps": steps}
