"""The record of a compilation: what all views show and files hold. Nothing here needs a model or torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from starquant_fx.errors import InputError, nearest

VERSION = 1
"""Of the form that recordings are written in."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What a node reads.

    Attributes:
        node: Name of the node that makes it.
        output: Which of its results.
        argument: What the operator calls it.
    """

    node: str
    output: int
    argument: str


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node of one stage. A constant is no node of its own: ``tensors`` of its readers name it.

    Attributes:
        name: Unique in its stage; the same node has the same name in all stages.
        operator: Without its overload, such as ``aten.linear``; ``input`` and ``output`` at the ends.
        module: Path of the module that it stands in, separated by dots; ``site`` parts hang below the module of the
            site's first linear.
        sources: What it reads.
        outputs: Type and sizes of its results, such as ``f32[B, L, 4096]``.
        tensors: Constants that it reads: (argument, qualified name, type and sizes).
        arguments: All else that it is called with, as text.
        role: Of its linear, such as ``q``; empty = none.
        site: Name of the site that it belongs to; empty = none.
        part: What it does there, such as ``rotate``; empty = nothing.
        linear: Qualified name of the linear that it belongs to; empty = none.
        made_by: The pass, or ``capture``.
        made_from: Nodes of the stage before that it took the place of, or was put behind.
        bits: Of what it quantizes, multiplies or restores, such as ``w4a4``; empty = high precision or no arithmetic.
        flops: Operations of a forward, multiplications and additions counted apart; None = not counted.
        bytes: That a forward reads and writes there, constants included; None = not counted.
    """

    name: str
    operator: str
    module: str = ""
    sources: tuple[Source, ...] = ()
    outputs: tuple[str, ...] = ()
    tensors: tuple[tuple[str, str, str], ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
    role: str = ""
    site: str = ""
    part: str = ""
    linear: str = ""
    made_by: str = "capture"
    made_from: tuple[str, ...] = ()
    bits: str = ""
    flops: float | None = None
    bytes: float | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """The graph after one pass.

    Attributes:
        name: ``capture``, the pass's name, or ``lower``.
        text: The pass with its options.
        preserves: How far the pass keeps the function: ``bitwise``, ``numerically`` or ``not``; empty = no pass.
        seconds: That it took.
        notes: What it found.
        nodes: In the graph's order, by name.
    """

    name: str
    text: str
    preserves: str
    seconds: float
    notes: tuple[str, ...]
    nodes: Mapping[str, Node]


@dataclasses.dataclass(frozen=True)
class SiteFacts:
    """A site: linears that read one tensor.

    Attributes:
        name: Qualified name of its first linear.
        linears: Qualified names.
        roles: One a linear.
        features: Input channels.
        outputs: Output channels of each linear.
        bits: Such as ``w4a4``; empty = full precision.
        reason: Why it is in full precision; empty = it is not.
        transform: Structure and sizes of the basis; empty = none.
        gates: Coordinates r of each state; 0 = no gates.
        error: ||y - y'||^2 / ||y||^2 on calibration states given full-precision inputs; None = not measured.
        leakage: What the gates alone lose; None = not fitted.
        bytes_before: Of its weights in the model's own type.
        bytes_after: Of all constants that its nodes read in the last stage.
        flops: Of its nodes in the last stage, for one forward.
    """

    name: str
    linears: tuple[str, ...]
    roles: tuple[str, ...]
    features: int
    outputs: tuple[int, ...]
    bits: str = ""
    reason: str = ""
    transform: str = ""
    gates: int = 0
    error: float | None = None
    leakage: float | None = None
    bytes_before: int = 0
    bytes_after: int = 0
    flops: float = 0.0

    @property
    def sqnr(self) -> float | None:
        """Signal to quantization noise of its outputs in dB: ``-10 log10(error)``; None = not measured, or no ratio."""
        if self.error is None or not self.error >= 0:  # NaN is neither
            return None
        return -10 * math.log10(self.error) if self.error else math.inf


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recorded compilation.

    Attributes:
        model: What was compiled.
        recipe: The recipe's name.
        tokens: The forward that is counted, such as ``1x1024``.
        stages: In the order that they ran; the first is ``capture``.
        sites: By name, in the graph's order.
        package: Version of the package that recorded it.
    """

    model: str
    recipe: str
    tokens: str
    stages: tuple[Stage, ...]
    sites: Mapping[str, SiteFacts]
    package: str = ""

    @property
    def last(self) -> Stage:
        """The last stage."""
        return self.stages[-1]

    @property
    def names(self) -> list[str]:
        """Names of the stages."""
        return [stage.name for stage in self.stages]

    def stage(self, name: str) -> Stage:
        """A stage by name.

        Raises:
            InputError: There is none; the nearest name is offered.
        """
        for stage in self.stages:
            if name in (stage.name, stage.text):
                return stage
        raise InputError(
            f"there is no stage {name!r}",
            where=f"the recording of {self.model} with {self.recipe}",
            expected=", ".join(self.names),
            got=repr(name),
            hint=nearest(name, self.names) or "use one of these names",
        )

    def site(self, name: str) -> SiteFacts:
        """A site by its name, by that of one of its linears, or by the end of either.

        ``layers.3.o_proj`` also stands for ``model.layers.3.self_attn.o_proj``: its parts must come in this order, the
        last one at the end. Where nothing is called so, a last part such as ``o_proj`` or ``o`` is a role, and of the
        others only numbers count: ``layers.3.o_proj`` is LLaDA's ``blocks.3.attn_out``.

        Raises:
            InputError: There is none, or more than one; the nearest names are offered.
        """
        known = {linear: site for site in self.sites.values() for linear in site.linears}
        exact = known.get(name)
        if exact is not None:
            return exact
        parts = name.split(".")
        found = [linear for linear in known if _ends_like(linear.split("."), parts)]
        found = found or [linear for linear in known if _has_role(known[linear], linear, parts)]
        sites = {known[linear].name: known[linear] for linear in found}
        if len(sites) == 1:
            return next(iter(sites.values()))
        raise InputError(
            f"{len(sites)} sites are called {name!r}" if sites else f"there is no site {name!r}",
            where=f"the recording of {self.model} with {self.recipe}",
            expected="the name of one linear or the end of it",
            got=", ".join(sorted(found)[:4]) or repr(name),
            hint="write more of the name" if sites else _nearest_site(name, list(known)),
        )


def _ends_like(whole: list[str], parts: list[str]) -> bool:
    """Whether parts come in a name in their order, the last at its end."""
    if not whole or whole[-1] != parts[-1]:
        return False
    remaining: Iterator[str] = iter(whole[:-1])
    return all(part in remaining for part in parts[:-1])


def _has_role(site: SiteFacts, linear: str, parts: list[str]) -> bool:
    """Whether parts end in a linear's role and have its numbers, such as that of its layer."""
    role = site.roles[site.linears.index(linear)]
    numbers = [part for part in parts[:-1] if part.isdecimal()]
    own = [part for part in linear.split(".") if part.isdecimal()]
    return bool(numbers) and parts[-1] in (role, f"{role}_proj") and numbers == own


def _nearest_site(name: str, known: list[str]) -> str:
    ends = {".".join(one.split(".")[-n:]): one for n in (1, 2, 3, 4) for one in known}
    found = nearest(name, [*known, *ends])
    return found or f"for example {known[0]!r}" if known else "nothing was quantized"
