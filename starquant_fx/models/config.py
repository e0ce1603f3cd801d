"""What the model configurations share: reading a published ``config.json`` strictly."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Self

from starquant_fx.errors import ConfigError


@dataclasses.dataclass(kw_only=True)
class PublishedConfig:
    """Base of the configurations that accept published ``config.json`` keys.

    Subclasses declare the keys they read as fields and the settings they cannot honour in ``UNSUPPORTED``.
    Keys that change nothing in a forward pass (``auto_map``, dropout, ...) are kept in ``extra`` and written back.
    """

    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Key -> the values that this implementation computes; anything else is refused."""
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
        missing = [n for n in required if published.get(n) is None]
        if missing:
            raise ConfigError(
                f"the configuration lacks {', '.join(missing)}",
                where="config.json",
                expected=f"the published {cls.__name__} keys",
                got=f"{len(published)} keys",
                hint="take config.json from the published model folder",
            )
        for key, accepted in cls.UNSUPPORTED.items():
            if key in published and published[key] not in accepted:
                raise ConfigError(
                    f"{key} = {published[key]!r} is not implemented",
                    where="config.json",
                    expected=" or ".join(repr(a) for a in accepted),
                    got=repr(published[key]),
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

    def validate(self) -> None:
        """Checks that the numbers fit each other; subclasses extend it."""

    def require(self, holds: bool, what: str, got: object) -> None:
        """Raises a ConfigError with ``what`` unless ``holds``."""
        if not holds:
            raise ConfigError(what, where="config.json", got=str(got))


def _check_number(name: str, declared: str, value: object) -> None:
    """Refuses a value that its field's declared type excludes; sizes and constants must be above zero."""
    if "int" in declared:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} must be an integer", where="config.json", got=repr(value))
        smallest = 0 if name.endswith("_token_id") else 1
        if value < smallest:
            raise ConfigError(
                f"{name} must be at least {smallest}", where="config.json", got=repr(value)
            )
    elif "float" in declared:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < float(value) < math.inf:  # type: ignore[arg-type]
            raise ConfigError(
                f"{name} must be a finite number above 0", where="config.json", got=repr(value)
            )
