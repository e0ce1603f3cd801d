"""What formulas return, and the registry that they stand in."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping

import sympy

from starquant_fx.cost.calls import Call, numel, tensors
from starquant_fx.cost.units import ELEMENTWISE


class Kind(enum.Enum):
    """How a call runs: not at all, fused with its like by a compiler, or as a kernel of its own."""

    VIEW = "view"
    ELEMENTWISE = "elementwise"
    KERNEL = "kernel"


@dataclasses.dataclass(frozen=True)
class Scratch:
    """What the kernels of one call leave in memory for each other, which depends on how a chip divides the work.

    Attributes:
        tokens: Of the call.
        of: Takes a chip's architecture and a number of tokens; returns the bytes written and read, and the launches
            besides those that the call has on every chip.
    """

    tokens: sympy.Expr
    of: Callable[[int, int], tuple[float, int]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What a call does.

    Attributes:
        kind: How it runs.
        operations: By unit; a multiplication and an addition are two.
        reads: Bytes of arguments of which not all is read once, by the argument's name.
        estimated: Whether there is no formula of the operator: one operation an element.
        launches: Kernels of the call on every chip.
        scratch: What they leave for each other; None: nothing.
    """

    kind: Kind
    operations: Mapping[str, sympy.Expr] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, sympy.Expr] = dataclasses.field(default_factory=dict)
    estimated: bool = False
    launches: int = 1
    scratch: Scratch | None = None


Formula = Callable[[Call], Work]
FORMULAS: dict[str, Formula] = {}
"""By the operator's name."""


def formula(*names: str) -> Callable[[Formula], Formula]:
    """Registers a function as the formula of some operators."""

    def register(function: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, function))
        return function

    return register


def work_of(call: Call) -> Work:
    """What a call does by its formula; one without a formula counts an operation for every element it reads or makes.

    Args:
        call: The call.

    Returns:
        The work; ``estimated`` says that there was no formula.
    """
    known = FORMULAS.get(call.name)
    if known is not None:
        return known(call)
    if call.name.startswith("python.") or not call.results:
        return Work(Kind.VIEW)  # arithmetic on sizes
    touched = [*call.results, *tensors(tuple(call.arguments.values()))]
    counts = {ELEMENTWISE: sympy.Add(*map(numel, touched))}
    return Work(Kind.ELEMENTWISE, counts, estimated=True)


def summed(*parts: tuple[str, sympy.Expr]) -> dict[str, sympy.Expr]:
    """Operations by unit, from pairs of a unit and a number; a unit may come several times."""
    total: dict[str, sympy.Expr] = {}
    for unit, count in parts:
        total[unit] = total.get(unit, sympy.Integer(0)) + count
    return {unit: count for unit, count in total.items() if count != 0}
