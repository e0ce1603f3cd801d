"""What a pass is: a frozen dataclass whose fields are its options, with a text form that round-trips."""

from __future__ import annotations

import ast
import dataclasses
import enum
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from starquant_fx.errors import PassError, RecipeError, nearest
from starquant_fx.program import Program
from starquant_fx.recipe import ROLES

LONGEST = 2000
"""Characters of a pass's text form."""


class Preserves(enum.Enum):
    """How far a pass preserves the function that the graph computes."""

    BITWISE = "bitwise"
    """The same bits come out."""
    NUMERICALLY = "numerically"
    """Equal in real arithmetic; the results differ by rounding."""
    NOT = "not"
    """The function changes, on purpose."""


class Pass(ABC):
    """Base of the passes.

    Subclasses are frozen dataclasses. ``run`` may edit the program it is given; the manager discards the program when a
    pass fails.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()
    """Passes that must have run before."""
    before: ClassVar[tuple[str, ...]] = ()
    """Passes that, where the pipeline has them, must run later."""
    preserves: ClassVar[Preserves]

    def check_options(self) -> None:
        """Raises a PassError if an option is out of range; runs before any pass of the pipeline does."""

    def requires(self, program: Program) -> None:
        """Raises a PassError if the program is not ready for this pass."""

    @abstractmethod
    def run(self, program: Program) -> Program:
        """Rewrites the program and returns it."""

    def ensures(self, program: Program) -> None:
        """Raises a PassError if the result lacks what this pass promises."""

    def expect(
        self,
        holds: bool,
        what: str,
        *,
        where: str,
        expected: str,
        got: object,
        hint: str | None = None,
    ) -> None:
        """Raises a PassError that names this pass unless ``holds``."""
        if not holds:
            raise PassError(
                f"pass {self.name}: {what}", where=where, expected=expected, got=str(got), hint=hint
            )

    def expect_range(self, option: str, low: float, high: float | None = None) -> None:
        """Raises a PassError unless the option is a finite number of at least ``low`` and at most ``high``."""
        value = getattr(self, option)
        self.expect(
            math.isfinite(value) and low <= value and (high is None or value <= high),
            "an option is out of range",
            where=option,
            expected=f"{low} or more" if high is None else f"{low} to {high}",
            got=value,
        )

    def expect_one_of(self, option: str, known: Iterable[str]) -> None:
        """Raises a PassError unless the option is one of the known names."""
        value, names = getattr(self, option), tuple(known)
        self.expect(
            value in names,
            f"unknown {option}",
            where=option,
            expected=", ".join(names),
            got=value,
            hint=nearest(value, names),
        )

    def expect_roles(self, option: str) -> None:
        """Raises a PassError unless the option is ``all`` or roles separated by "+"."""
        value = getattr(self, option)
        unknown = [role for role in value.split("+") if role not in ("all", *ROLES)]
        self.expect(
            not unknown,
            "unknown role",
            where=option,
            expected=f"all, or of {', '.join(ROLES)}, separated by +",
            got=value,
            hint=nearest(unknown[0], ROLES) if unknown else None,
        )

    def expect_calibration(self, program: Program) -> None:
        """Raises a PassError unless there is something to estimate from, or no weights to estimate for."""
        self.expect(
            program.weightless or program.calibration is not None,
            "there is nothing to calibrate with",
            where=program.recipe.name,
            expected="calibration data",
            got="none",
        )

    def __str__(self) -> str:
        """Returns the text form: the name, and in braces the options that differ from their defaults."""
        changed = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                changed.append(f"{field.name}={_text(value)}")
        return self.name + (f"{{{','.join(changed)}}}" if changed else "")

    def seeded(self, seed: int) -> Self:
        """Returns the pass with its ``seed`` replaced, or itself if it draws nothing."""
        drawn = any(f.name == "seed" for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return dataclasses.replace(self, seed=seed) if drawn else self  # type: ignore[type-var]

    @classmethod
    def with_options(cls, options: dict[str, Any]) -> Self:
        """Builds the pass from option names and values.

        Raises:
            RecipeError: Unknown option (the nearest name is offered), or a value of the wrong type.
        """
        known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key, value in options.items():
            if key not in known:
                raise RecipeError(
                    f"pass {cls.name} has no option {key!r}",
                    where=cls.name,
                    expected=", ".join(known) or "no options",
                    got=key,
                    hint=nearest(key, known),
                )
            default = known[key].default
            kinds = (int, float) if isinstance(default, float) else (type(default),)
            optional = "None" in str(known[key].type)
            fits = isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)
            if not fits and not (optional and (value is None or default is None)):
                raise RecipeError(
                    f"pass {cls.name}: option {key} has a wrong type",
                    where=cls.name,
                    expected=type(default).__name__,
                    got=repr(value),
                )
        return cls(**options)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value).replace(" ", "")


def _split(body: str) -> list[str]:
    """Splits at commas outside parentheses."""
    return [part for part in re.split(r",(?![^(]*\))", body) if part]


def parse_pass(text: str, registry: dict[str, type[Pass]], among: Iterable[Pass] = ()) -> Pass:
    """Builds a pass from its text form.

    Args:
        text: ``name`` or ``name{option=value,...}``.
        registry: The passes that exist, by name.
        among: If the pass is one of these, its options stand where the text gives none; else the defaults do.

    Returns:
        The pass; ``str`` of it gives the text back.

    Raises:
        RecipeError: The text is malformed, or names an unknown pass or option.
    """
    if len(text) > LONGEST:  # splitting it takes the square of its length
        raise RecipeError(
            "the text of a pass is too long",
            where=text[:40],
            expected=f"at most {LONGEST} characters",
            got=str(len(text)),
            hint="leave options at their defaults out",
        )
    match = re.fullmatch(r"([a-z][a-z0-9-]*)(?:\{(.*)\})?", text.strip())
    if match is None:
        raise RecipeError("malformed pass", where=text, expected="name{option=value,...}")
    name, body = match.group(1), match.group(2) or ""
    if name not in registry:
        raise RecipeError(
            f"unknown pass {name!r}",
            where=text,
            expected=", ".join(registry),
            hint=nearest(name, registry),
        )
    base = next((one for one in among if one.name == name), None)
    options: dict[str, Any] = {} if base is None else dict(vars(base))
    for item in _split(body):
        key, separator, value = item.partition("=")
        if not separator:
            raise RecipeError(
                "malformed pass option", where=text, expected="option=value", got=item
            )
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # nested too deeply: a text
            options[key.strip()] = value.strip()
    return registry[name].with_options(options)
