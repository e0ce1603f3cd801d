"""What the model configurations share: reading a published ``config.json`` strictly."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from starquant_fx.errors import ConfigError

FILE = "config.json"
HINT = "take config.json from the published model folder"
SPECIAL_TOKENS = ("mask", "eos", "pad", "bos")


@dataclasses.dataclass(kw_only=True)
class PublishedConfig:
    """Base of the configurations that accept published ``config.json`` keys.

    Subclasses declare the keys they read as fields, the settings they cannot honour in ``UNSUPPORTED``, and in
    ``REQUIRED`` the keys that a published file always has and whose absence would mean another model. Keys that change
    nothing in a forward pass (``auto_map``, dropout, ...) are kept in ``extra`` and written back.
    """

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Key -> the values that this implementation computes; anything else is refused."""
    REQUIRED: ClassVar[tuple[str, ...]] = ()
    """Keys that must be there, besides the fields without a default."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, published: dict[str, Any]) -> Self:
        """Builds the configuration from the content of a published ``config.json``.

        Args:
            published: The parsed JSON object.

        Returns:
            The configuration.

        Raises:
            ConfigError: Keys are missing, have a wrong type, or ask for something that is not implemented.
        """
        fields = {f.name: f for f in dataclasses.fields(cls) if f.name != "extra"}
        required = [n for n, f in fields.items() if f.default is dataclasses.MISSING]
        missing = [n for n in (*required, *cls.REQUIRED) if published.get(n) is None]
        if missing:
            unknown = published.keys() - fields.keys() - cls.UNSUPPORTED.keys()
            raise ConfigError(
                f"the configuration lacks {', '.join(missing)}",
                where=FILE,
                expected=f"the published {cls.__name__} keys",
                got=f"{len(published)} keys",
                hint=_misspelt(unknown, missing) or HINT,
            )
        for key, accepted in cls.UNSUPPORTED.items():
            if key in published and published[key] not in accepted:
                raise ConfigError(
                    f"{key} = {published[key]!r} is not implemented",
                    where=FILE,
                    expected=" or ".join(repr(a) for a in accepted),
                    got=repr(published[key]),
                    hint="use a model of the published LLaDA-8B or Dream-7B families",
                )
        known = {n: published[n] for n in fields if published.get(n) is not None}
        for name, value in known.items():
            _check_number(name, str(fields[name].type), value)
        config = cls(**known, extra={k: v for k, v in published.items() if k not in known})
        config.validate()
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns the published keys, ready to be written as ``config.json``."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        return {**self.extra, **own}

    def to_published(self) -> dict[str, Any]:
        """Returns what ``from_dict`` reads back: as ``to_dict``, with the settings that no published file gave."""
        computed = {key: accepted[0] for key, accepted in self.UNSUPPORTED.items()}
        return {**computed, **self.to_dict()}

    def validate(self) -> None:
        """Checks that the numbers fit each other; subclasses extend it."""

    def require(self, holds: bool, what: str, *, expected: str, got: object) -> None:
        """Raises a ConfigError with ``what`` unless ``holds``."""
        if not holds:
            raise ConfigError(what, where=FILE, expected=expected, got=str(got), hint=HINT)

    def require_heads(self, width: str, heads: str, kv_heads: str) -> None:
        """Checks that the heads divide the width evenly, for rotary embeddings and grouped queries.

        Args:
            width: Key of the model's width.
            heads: Key of the number of heads.
            kv_heads: Key of the number of key-value heads; None means as many as heads.
        """
        d, n = getattr(self, width), getattr(self, heads)
        groups = getattr(self, kv_heads) or n
        self.require(
            d % n == 0, f"{heads} must divide {width}", expected=f"a divisor of {d}", got=n
        )
        self.require(
            d // n % 2 == 0, "rotary heads must have an even size", expected="even", got=d // n
        )
        self.require(
            n % groups == 0,
            f"{kv_heads} must divide {heads}",
            expected=f"a divisor of {n}",
            got=groups,
        )

    def require_special_tokens(self, rows: int) -> None:
        """Checks that the special tokens that are named have a row of the embedding.

        Args:
            rows: Rows of the embedding.
        """
        for name in SPECIAL_TOKENS:
            key = f"{name}_token_id"
            value = getattr(self, key, self.extra.get(key))
            if value is not None:
                _check_number(key, "int", value)
                self.require(
                    value < rows,
                    f"{key} is outside the embedding",
                    expected=f"0 to {rows - 1}",
                    got=value,
                )


def _misspelt(unknown: Iterable[str], missing: Iterable[str]) -> str | None:
    """A sentence on a key that looks like one that is missing, or None."""
    for key in sorted(unknown):
        close = difflib.get_close_matches(key, list(missing), n=1, cutoff=0.75)
        if close:
            return f"{key!r} is no published key: did you mean {close[0]!r}?"
    return None


def _check_number(name: str, declared: str, value: object) -> None:
    """Refuses a value that its field's declared type excludes; sizes and constants must be above zero."""
    if "int" in declared:
        smallest = 0 if name.endswith("_token_id") else 1
        expected = f"an integer, at least {smallest}"
        usable = isinstance(value, int) and not isinstance(value, bool) and value >= smallest
    elif "float" not in declared:
        return
    else:
        expected = "a finite number above 0"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        usable = number and 0 < value <= sys.float_info.max  # type: ignore[operator]
    if not usable:
        raise ConfigError(
            f"{name} is not usable", where=FILE, expected=expected, got=repr(value), hint=HINT
        )
