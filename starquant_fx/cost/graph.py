"""What every node of a graph costs, and sums of it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
from torch import Tensor, fx

from starquant_fx.cost import aten, cpu_operators, reference_operators, tile_operators
from starquant_fx.cost.calls import ZERO, Call, bound, operator_name, renaming, stored
from starquant_fx.cost.calls import tensors as tensors_in
from starquant_fx.cost.fusion import fused_kernels, source_of
from starquant_fx.cost.places import Place, places
from starquant_fx.cost.work import Kind, Scratch, Work, work_of
from starquant_fx.program import Site

FORMULA_MODULES = (aten, reference_operators, cpu_operators, tile_operators)
"""Importing them fills the registry."""


@dataclasses.dataclass(frozen=True)
class NodeCost:
    """What one node costs; all sizes are expressions in B, L and R.

    Attributes:
        name: The node's name.
        operator: Its operator.
        kind: How it runs.
        place: Its role, its site and the pass that made it.
        operations: By unit.
        weights: Bytes of constants that it reads.
        read: Bytes of activations that it reads as a kernel of its own.
        written: Bytes that it writes as a kernel of its own.
        fused_weights: As ``weights``, where elementwise neighbours are one kernel.
        fused_read: As ``read``, likewise.
        fused_written: As ``written``, likewise.
        kernel: Index of the fused kernel that it is part of; -1 for views.
        estimated: Whether its operator has no formula.
        launches: Its kernels on every chip.
        scratch: What they leave in memory for each other.
    """

    name: str
    operator: str
    kind: Kind
    place: Place
    operations: Mapping[str, sympy.Expr]
    weights: sympy.Expr
    read: sympy.Expr
    written: sympy.Expr
    fused_weights: sympy.Expr
    fused_read: sympy.Expr
    fused_written: sympy.Expr
    kernel: int
    estimated: bool
    launches: int = 1
    scratch: Scratch | None = None


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor in memory while a graph runs: index of the node that makes it and of the last that reads it, bytes."""

    made: int
    read: int
    size: sympy.Expr
    fused_away: bool


@dataclasses.dataclass(frozen=True)
class GraphCost:
    """What a graph costs.

    Attributes:
        nodes: Of every call that is not a view, in graph order.
        tensors: Bytes of each constant as it is stored, by name.
        values: What is in memory while it runs.
    """

    nodes: tuple[NodeCost, ...]
    tensors: Mapping[str, int]
    values: tuple[Value, ...]

    @property
    def weights(self) -> int:
        """Bytes of all constants as stored."""
        return sum(self.tensors.values())

    @property
    def estimated(self) -> tuple[str, ...]:
        """Operators without a formula, by name."""
        return tuple(sorted({n.operator for n in self.nodes if n.estimated}))

    def operations(self, unit: str) -> sympy.Expr:
        """All operations of a unit."""
        return total(n.operations.get(unit, ZERO) for n in self.nodes)

    def launches(self, fused: bool) -> int:
        """Kernels: of all calls, or with each group of elementwise neighbours as one."""
        more = sum(n.launches - 1 for n in self.nodes)
        return more + (len({n.kernel for n in self.nodes}) if fused else len(self.nodes))

    def moved(self, fused: bool) -> sympy.Expr:
        """Bytes read and written by all kernels."""
        return total(moved(n, fused) for n in self.nodes)


def moved(node: NodeCost, fused: bool) -> sympy.Expr:
    """Bytes that a node reads and writes."""
    if fused:
        return node.fused_weights + node.fused_read + node.fused_written
    return node.weights + node.read + node.written


def total(expressions: Iterable[sympy.Expr]) -> sympy.Expr:
    """The sum as a polynomial; equal terms, as alike layers have them, are counted before they are added."""
    counts: dict[sympy.Expr, int] = {}
    for one in expressions:
        counts[one] = counts.get(one, 0) + 1
    return sympy.expand(sympy.Add(*(count * one for one, count in counts.items())))


def cost_of(module: fx.GraphModule, sites: Mapping[str, Site] | None = None) -> GraphCost:
    """Counts what a graph does.

    Args:
        module: With fake values in its nodes' ``meta["val"]``; the first placeholder is ``input_ids`` [B, L], one named
            ``rows`` is [R].
        sites: The program's, to name roles; None = no roles.

    Returns:
        The cost, in the symbols B, L and R.
    """
    nodes = list(module.graph.nodes)
    constants = {n: _constant(module, n) for n in nodes if n.op == "get_attr"}
    found = {n: _work(n, constants) for n in nodes if n.op == "call_function"}
    kinds = {n: work.kind for n, (work, _) in found.items()}
    kernels = fused_kernels(nodes, kinds)
    named = places(nodes, sites or {})
    rename = renaming(nodes)
    counted: list[NodeCost] = []
    read_by: set[tuple[int, fx.Node, sympy.Expr]] = set()
    for node, (work, reads) in found.items():
        if work.kind is Kind.VIEW:
            continue
        kernel = kernels[node]
        own: dict[bool, sympy.Expr] = {True: ZERO, False: ZERO}
        outside: dict[bool, sympy.Expr] = {True: ZERO, False: ZERO}
        for (source, count), constant in reads.items():
            own[constant] += count
            key = (kernel, source, count)
            if kernels.get(source) != kernel and key not in read_by:
                read_by.add(key)
                outside[constant] += count
        written = _written(node)
        leaves = _leaves(node, kernels)
        counted.append(
            NodeCost(
                name=node.name,
                operator=operator_name(node.target),
                kind=work.kind,
                place=named[node],
                operations={u: rename(sympy.sympify(c)) for u, c in work.operations.items()},
                weights=rename(own[True]),
                read=rename(own[False]),
                written=rename(written),
                fused_weights=rename(outside[True]),
                fused_read=rename(outside[False]),
                fused_written=rename(written) if leaves else ZERO,
                kernel=kernel,
                estimated=work.estimated,
                launches=work.launches,
                scratch=work.scratch
                and dataclasses.replace(work.scratch, tokens=rename(work.scratch.tokens)),
            )
        )
    tensors = {
        str(n.target): value.numel() * value.element_size() for n, value in constants.items()
    }
    return GraphCost(tuple(counted), tensors, tuple(_values(nodes, kinds, kernels, rename)))


def _constant(module: fx.GraphModule, node: fx.Node) -> Tensor:
    value: Tensor = operator.attrgetter(str(node.target))(module)
    return value


def _value(node: fx.Node, constants: Mapping[fx.Node, Tensor]) -> Any:
    return constants[node] if node in constants else node.meta.get("val")


def _work(
    node: fx.Node, constants: Mapping[fx.Node, Tensor]
) -> tuple[Work, dict[tuple[fx.Node, sympy.Expr], bool]]:
    """A node's work, and what it reads: (where the bytes come from, bytes) -> whether it is a constant."""
    given = bound(node)
    values = fx.map_arg(given, lambda n: _value(n, constants))
    call = Call(operator_name(node.target), values, tuple(tensors_in(node.meta.get("val"))))
    work = work_of(call)
    reads: dict[tuple[fx.Node, sympy.Expr], bool] = {}
    for name, argument in given.items():
        sources: list[fx.Node] = []
        fx.map_arg(argument, sources.append)
        for source in sources:
            value = _value(source, constants)
            if isinstance(value, Tensor):
                count = work.reads.get(name, stored(value))
                reads[source_of(source), count] = source in constants
    return work, reads


def _written(node: fx.Node) -> sympy.Expr:
    return sympy.Add(*map(stored, tensors_in(node.meta.get("val"))))


def _readers(node: fx.Node) -> Iterable[fx.Node]:
    """What reads a node's result, through views."""
    for user in node.users:
        if source_of(user) is not user:
            yield from _readers(user)
        else:
            yield user


def _leaves(node: fx.Node, kernels: Mapping[fx.Node, int]) -> bool:
    """Whether a result is read outside of the fused kernel that makes it."""
    return any(kernels.get(user) != kernels[node] for user in _readers(node))


def _values(
    nodes: list[fx.Node],
    kinds: Mapping[fx.Node, Kind],
    kernels: Mapping[fx.Node, int],
    rename: Callable[[sympy.Expr], sympy.Expr],
) -> Iterable[Value]:
    """What is in memory while the graph runs."""
    index = {node: i for i, node in enumerate(nodes)}
    for node in nodes:
        computed = node.op == "call_function" and kinds[node] is not Kind.VIEW
        if node.op != "placeholder" and not computed:
            continue
        last = max((index[user] for user in _readers(node)), default=index[node])
        gone = computed and not _leaves(node, kernels)
        yield Value(index[node], last, rename(_written(node)), gone)
