"""Recipes: how each site is quantized and which passes do it. Frozen, versioned, strict."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starquant_fx.errors import RecipeError, nearest
from starquant_fx.patterns import check_pattern

if TYPE_CHECKING:
    from starquant_fx.pass_base import Pass

VERSION = 1
FULL_PRECISION = 16
LARGEST_SEED = 2**32 - 1
ROLES = (
    "q",
    "k",
    "v",
    "qk",
    "qv",
    "kv",
    "qkv",
    "o",
    "gate",
    "up",
    "gate_up",
    "down",
    "head",
    "dense",
)
"""What a linear can be in a denoiser; several letters: one linear computes several of them."""
BITS = (*range(2, 9), FULL_PRECISION)


def check_bits(bits: object, what: str, where: str) -> int:
    """Returns ``bits`` if it is 2..8 or 16, else raises a RecipeError."""
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in BITS:
        raise RecipeError(
            f"{what} bits are out of range",
            where=where,
            expected="2..8, or 16 for full precision",
            got=repr(bits),
            hint=f"for example 4 or 8: {what[0]}4, {what[0]}8 in a recipe's name",
        )
    return bits


def parse_bits(text: str, where: str) -> tuple[int, int]:
    """Reads ``w4a8`` as (4, 8).

    Raises:
        RecipeError: The text has another form, or the bits are out of range.
    """
    match = re.fullmatch(r"w(\d+)a(\d+)", text)
    if match is None:
        raise RecipeError(
            "malformed bits",
            where=where,
            expected="w<bits>a<bits>, for example w4a8",
            got=text,
            hint="write the bits of weights and activations, as in star-w4a8",
        )
    weight, activation = int(match.group(1)), int(match.group(2))
    return check_bits(weight, "weight", where), check_bits(activation, "activation", where)


@dataclasses.dataclass(frozen=True)
class SiteRecipe:
    """How one site is quantized.

    Attributes:
        weight_bits: 2..8, or 16 = not quantized. Symmetric, per output channel.
        activation_bits: 2..8, or 16 = not quantized. Per token.
        symmetric: Symmetric instead of asymmetric activations.
    """

    weight_bits: int
    activation_bits: int
    symmetric: bool = False

    def __str__(self) -> str:
        """Returns for example ``w4a8``."""
        return f"w{self.weight_bits}a{self.activation_bits}"


@dataclasses.dataclass(frozen=True)
class CalibrationOptions:
    """How calibration states are made.

    Attributes:
        samples: Sequences.
        length: Tokens a sequence.
        rollout_steps: Denoising steps of the model itself between the first and the recorded state of a sequence.
        seed: Seed of every draw.
        max_tokens: Tokens kept a site, a random subset; bounds time and memory of what is fitted on activations.
        strata: Shares of the sequences in equally wide buckets of the mask ratio; empty = even over (0, 1).
        step_strata: Shares of the sequences recorded after 0, 1, .. ``rollout_steps`` denoising steps; empty = all
            after ``rollout_steps``.
    """

    samples: int = 64
    length: int = 256
    rollout_steps: int = 4
    seed: int = 0
    max_tokens: int = 8192
    strata: tuple[float, ...] = ()
    step_strata: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the numbers are integers in range."""
        for name, low, high in (
            ("samples", 1, None),
            ("length", 1, None),
            ("rollout_steps", 0, None),
            ("seed", 0, LARGEST_SEED),
            ("max_tokens", 1, None),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < low or (high is not None and value > high):
                raise RecipeError(
                    "a calibration option is out of range",
                    where=name,
                    expected=f"an integer, {low} " + ("or more" if high is None else f"to {high}"),
                    got=repr(value),
                    hint="change it, or leave it out for the usual number",
                )
        for name in ("strata", "step_strata"):
            shares = getattr(self, name)
            if not (
                isinstance(shares, tuple)
                and all(isinstance(s, (int, float)) and s >= 0 for s in shares)
                and (not shares or sum(shares) > 0)
            ):
                raise RecipeError(
                    "a calibration option is out of range",
                    where=name,
                    expected="shares of 0 or more, not all 0",
                    got=repr(shares),
                    hint="for example (1, 1, 2), or none at all",
                )
        if len(self.step_strata) not in (0, self.rollout_steps + 1):
            raise RecipeError(
                "a calibration option is out of range",
                where="step_strata",
                expected=f"{self.rollout_steps + 1} shares, for 0 to {self.rollout_steps} rollout steps",
                got=f"{len(self.step_strata)} shares",
                hint="change their number, or rollout_steps",
            )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A way to quantize a model.

    Attributes:
        method: Name of the method, for example ``star``.
        weight_bits: Default for every site.
        activation_bits: Default for every site.
        passes: The pipeline, from canonicalize to fuse.
        symmetric: Symmetric activations.
        ignore: Sites left in full precision: a qualified name, ``re:`` + a regular expression, or ``role:head``.
        overrides: (pattern, bits) pairs, the last match wins; patterns as in ``ignore``.
        calibration: How calibration states are made.
        version: Format version.
    """

    method: str
    weight_bits: int
    activation_bits: int
    passes: tuple[Pass, ...]
    symmetric: bool = False
    ignore: tuple[str, ...] = ("role:head",)
    overrides: tuple[tuple[str, str], ...] = ()
    calibration: CalibrationOptions = CalibrationOptions()
    version: int = VERSION

    def __post_init__(self) -> None:
        """Checks bits, patterns and version."""
        check_bits(self.weight_bits, "weight", self.method)
        check_bits(self.activation_bits, "activation", self.method)
        for pattern, bits in self.overrides:
            parse_bits(bits, f"override {pattern!r}")
        for pattern in (*self.ignore, *(p for p, _ in self.overrides)):
            if pattern.startswith("role:") and pattern[5:] not in ROLES:
                raise RecipeError(
                    "unknown role",
                    where=pattern,
                    expected=", ".join(ROLES),
                    got=pattern[5:],
                    hint=nearest(pattern[5:], ROLES) or "use one of these roles",
                )
            if pattern.startswith("re:"):
                check_pattern(pattern[3:], pattern)
        if self.version != VERSION:
            raise RecipeError(
                "unknown recipe version",
                where="version",
                expected=str(VERSION),
                got=str(self.version),
                hint="`starquant-fx recipes NAME --json` prints a recipe of this version",
            )

    @property
    def name(self) -> str:
        """For example ``star-w4a4``; overrides are shown in brackets."""
        extra = ",".join(f"{pattern}={bits}" for pattern, bits in self.overrides)
        return f"{self.method}-w{self.weight_bits}a{self.activation_bits}" + (
            f"[{extra}]" if extra else ""
        )

    def patterns(self) -> Iterator[str]:
        """The patterns that must match something in any model: all but ``role:head`` in ``ignore``."""
        yield from (pattern for pattern in self.ignore if pattern != "role:head")
        yield from (pattern for pattern, _ in self.overrides)

    def for_site(
        self, names: tuple[str, ...], roles: tuple[str, ...]
    ) -> tuple[SiteRecipe | None, str | None]:
        """Decides how a site is quantized.

        Args:
            names: Qualified names of its linears.
            roles: Their roles.

        Returns:
            The options and None, or None and the reason why the site stays in full precision.
        """
        for pattern in self.ignore:
            if matches(pattern, names, roles):
                return None, f"ignored by the recipe ({pattern})"
        weight, activation = self.weight_bits, self.activation_bits
        for pattern, bits in self.overrides:
            if matches(pattern, names, roles):
                weight, activation = parse_bits(bits, pattern)
        if weight == activation == FULL_PRECISION:
            return None, "16 bits on both sides"
        return SiteRecipe(weight, activation, self.symmetric), None

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as JSON-ready values; ``starquant_fx.recipes.from_dict`` reads it back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["passes"] = [str(p) for p in self.passes]
        values["ignore"] = list(self.ignore)
        values["overrides"] = dict(self.overrides)
        values["calibration"] = dataclasses.asdict(self.calibration)
        return values

    def seeded(self, seed: int) -> Recipe:
        """Returns the recipe with every draw (calibration, starts, fits) under another seed."""
        passes = tuple(one.seeded(seed) for one in self.passes)
        calibration = dataclasses.replace(self.calibration, seed=seed)
        return dataclasses.replace(self, passes=passes, calibration=calibration)

    def overriding(self, *overrides: tuple[str, str]) -> Recipe:
        """Returns the recipe with more overrides; what they name is no longer ignored.

        Raises:
            RecipeError: A pattern or its bits are malformed.
        """
        named = {pattern for pattern, _ in overrides}
        ignore = tuple(pattern for pattern in self.ignore if pattern not in named)
        return dataclasses.replace(self, ignore=ignore, overrides=(*self.overrides, *overrides))

    def without(self, *names: str) -> Recipe:
        """Returns the recipe without the passes of these names (for ablations); the method's name says so.

        Raises:
            RecipeError: The recipe has no such pass.
        """
        self._require_passes(names)
        kept = tuple(p for p in self.passes if p.name not in names)
        return dataclasses.replace(
            self, passes=kept, method=f"{self.method}(no {', '.join(names)})"
        )

    def replacing(self, one: Pass) -> Recipe:
        """Returns the recipe with its pass of the same name replaced; the method's name says so.

        Raises:
            RecipeError: The recipe has no such pass.
        """
        self._require_passes((one.name,))
        passes = tuple(one if p.name == one.name else p for p in self.passes)
        return dataclasses.replace(self, passes=passes, method=f"{self.method}({one})")

    def _require_passes(self, names: tuple[str, ...]) -> None:
        present = [p.name for p in self.passes]
        for name in names:
            if name not in present:
                raise RecipeError(
                    f"{self.name} has no pass {name!r}",
                    where=self.name,
                    expected=", ".join(present),
                    got=repr(name),
                    hint=nearest(str(name), present) or "use one of these names",
                )


def matches(pattern: str, names: tuple[str, ...], roles: tuple[str, ...]) -> bool:
    """Whether an ignore or override pattern speaks of any linear of a site."""
    if pattern.startswith("re:"):
        return any(re.fullmatch(pattern[3:], n) for n in names)
    if pattern.startswith("role:"):
        return pattern[5:] in roles
    return pattern in names
