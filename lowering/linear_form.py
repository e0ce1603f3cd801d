"""An integer linear and what follows it that a kernel can do as well: its branch, a residual."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from starquant_fx.lowering.matching import Types, alike, arguments_of
from starquant_fx.operators import op

Covers = Callable[[fx.Node, fx.Node], bool]
"""Whether a target's linear has room for the branch of these coefficients and this image."""


@dataclasses.dataclass
class LinearForm:
    """What a linear computes; see ``reference.quantized_linear``, ``reference.add_low_rank`` and an addition.

    Attributes:
        end: The node that holds the result.
        codes: Of the site, like scale, zero, weight_bits, state and dtype.
        packed: Of this linear, like weight_scale, column_sum, bias and state_bias.
        coefficients: Of the branch; None without one.
        image: Of the branch.
        residual: What is added last; None without it.
    """

    end: fx.Node
    codes: Any
    scale: Any
    zero: Any
    packed: Any
    weight_scale: Any
    column_sum: Any
    weight_bits: int
    bias: Any
    state: Any
    state_bias: Any
    dtype: torch.dtype
    coefficients: Any = None
    image: Any = None
    residual: Any = None

    @property
    def site(self) -> tuple[Any, ...]:
        """What linears must have in common to be one product."""
        kind = (self.weight_bits, self.state, self.dtype, self.coefficients)
        return (self.codes, self.scale, self.zero, *kind)


def linear_forms(graph: fx.Graph, covers: Covers, types: Types) -> list[LinearForm]:
    """The integer linears of a graph, each with as much of what follows as nothing else reads on the way.

    Args:
        graph: With fake values in its nodes' ``meta``.
        covers: Of the target.
        types: Of residuals that the target's linears add.

    Returns:
        In graph order.
    """
    forms = []
    for node in graph.find_nodes(op="call_function", target=op("quantized_linear"), sort=True):
        given: Any = node.args
        form = LinearForm(node, *given)
        for reader in _only_reader(form):
            branch = arguments_of(reader, op("add_low_rank"))
            if branch and branch[0] is form.end and covers(branch[2], branch[3]):
                form.state, form.coefficients, form.image = branch[1:]
                form.end = reader
        for reader in _only_reader(form):
            pair = arguments_of(reader, torch.ops.aten.add.Tensor)
            if pair and not reader.kwargs:
                other = pair[1] if pair[0] is form.end else pair[0]
                if alike(types, reader, form.end, other) and other is not form.end:
                    form.residual, form.end = other, reader
        forms.append(form)
    return forms


def by_site(forms: Iterable[LinearForm]) -> list[list[LinearForm]]:
    """Linears that can be one product, together: q, k and v, or gate and up; with a residual, each alone."""
    sites: dict[tuple[Any, ...], list[LinearForm]] = {}
    for form in forms:
        own = (form.end,) if form.residual is not None else ()
        sites.setdefault((*form.site, *own), []).append(form)
    return list(sites.values())


def _only_reader(form: LinearForm) -> list[fx.Node]:
    """The one node that reads a form's result; nothing if there are more."""
    readers = list(form.end.users)
    return readers if len(readers) == 1 else []
