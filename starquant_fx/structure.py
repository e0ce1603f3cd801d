"""Values of annotated types from parsed JSON: what ``dataclasses.asdict`` and ``json`` wrote, read back strictly."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from starquant_fx.errors import CheckpointError, nearest

WRITE_AGAIN = "write it again with this version of starquant_fx"


def structured(kind: Any, value: Any, where: str) -> Any:
    """Builds a value of a type from parsed JSON.

    Args:
        kind: A dataclass, ``tuple[...]``, ``dict[str, ...]``, a union, or a plain type.
        value: What JSON holds.
        where: What it is, for the error.

    Returns:
        The value; lists have become tuples, objects dataclasses.

    Raises:
        CheckpointError: The value is of another kind.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return _object(kind, value, where)
    if origin is types.UnionType:
        matching = [one for one in arguments if _plain(one, value)]
        if matching:
            return value
    elif origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            items = enumerate(zip(kinds, value, strict=True))
            return tuple(structured(one, item, f"{where}[{i}]") for i, (one, item) in items)
    elif origin is dict and isinstance(value, dict):
        return {k: structured(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    elif origin is None and _plain(kind, value):
        return value
    expected = kind.__name__ if isinstance(kind, type) and origin is None else str(kind)
    raise CheckpointError(
        "a value is of a wrong kind",
        where=where,
        expected=expected,
        got=repr(value)[:100],
        hint=WRITE_AGAIN,
    )


def _object(kind: type, value: dict[str, Any], where: str) -> Any:
    """Builds a dataclass, with its defaults for what is not there."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in fields:
            raise CheckpointError(
                "unknown key",
                where=f"{where}.{key}",
                expected=", ".join(fields),
                got=repr(key),
                hint=nearest(key, fields) or WRITE_AGAIN,
            )
    needed = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(needed - value.keys()):
        raise CheckpointError(
            f"{', '.join(missing)} is missing",
            where=where,
            expected=", ".join(fields),
            got=", ".join(value) or "nothing",
            hint=WRITE_AGAIN,
        )
    return kind(**{k: structured(hints[k], v, f"{where}.{k}") for k, v in value.items()})


def _plain(kind: Any, value: Any) -> bool:
    """Whether a value is of a plain type; whole numbers are floats too, truth values are no numbers."""
    if kind is Any:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
