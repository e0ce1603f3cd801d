"""A site's input: what stands before its codes, as far as a kernel can compute it."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from starquant_fx.lowering.matching import Types, alike, arguments_of, tensors_of
from starquant_fx.operators import op

aten = torch.ops.aten
PLAIN = (None, None, (), "dense", 0, (), None, None)
"""The transforms of a site that has none, as ``transform_quantize`` takes them."""


@dataclasses.dataclass
class SiteForm:
    """What a site does to a tensor: TAC, centring, branch, basis, gates, quantizer, in this order.

    Attributes:
        x: The node that is read.
        state: Node of the token state; None where nothing depends on it.
        matrix: TAC's [d/g, g, g], or None; this and what follows are tensors.
        offset: TAC's [d], or None.
        means: [S, d], or None.
        directions: [S, d, k], or None.
        factors: Of the basis; empty = none.
        structure: See ``reference.rotate``.
        shared: See ``reference.gate``.
        bounds: See ``reference.gate``; empty = no gates.
        bits: 2..8.
        symmetric: See ``reference.quantize_activation``.
        clip: [2], or None.
        branch: The node that takes the branch's coefficients; None without one.
    """

    x: Any
    state: Any
    matrix: Any
    offset: Any
    means: Any
    directions: Any
    factors: Any
    structure: str
    shared: int
    bounds: Any
    bits: int
    symmetric: bool
    clip: Any
    branch: fx.Node | None


def site_form(module: fx.GraphModule, node: fx.Node) -> SiteForm:
    """Reads a quantizer with the operators before it that only it reads.

    Args:
        module: Has the tensors.
        node: A ``transform_quantize`` or ``quantize_activation``.

    Returns:
        The form.
    """
    x, *transforms, bits, symmetric, clip = node.args
    state, means, factors, structure, shared, bounds, matrix, offset = transforms or PLAIN
    directions = branch = None
    # A low-rank branch keeps centring and TAC out of the fused operator; they stand before it, last first.
    if (split := _only_read_here(_first_of(x), op("split_low_rank"))) is not None:
        branch = next((user for user in split.users if user.args[1] == 1), None)
        x, state, directions = split.args
        if (centred := _only_read_here(x, op("center"))) is not None:
            x, _, means = centred.args
            if (corrected := _only_read_here(x, op("compensate"))) is not None:
                x, matrix, offset = corrected.args
    values: Any = [
        *(x, state, *(tensors_of(module, t) for t in (matrix, offset, means, directions, factors))),
        *(structure, shared, bounds, bits, symmetric, tensors_of(module, clip), branch),
    ]
    return SiteForm(*values)


def before_norm(x: fx.Node, types: Types) -> tuple[fx.Node, float | None]:
    """What an RMS norm without a gain reads, and its eps, if ``x`` is one that is read once; else ``x`` and None."""
    normed = (arguments_of(x, aten._to_copy.default) or (x,))[0]
    if len(x.users) == 1:
        match arguments_of(normed, aten.rms_norm.default):
            case (wide, [_], None, float(eps)) if len(normed.users) == 1:
                source = (arguments_of(wide, aten._to_copy.default) or (wide,))[0]
                if wide.meta["val"].dtype == torch.float32 and alike(types, x, source):
                    return source, eps
    return x, None


def before_swiglu(x: fx.Node, types: Types) -> tuple[fx.Node, fx.Node] | None:
    """Gate and up of ``silu(gate) * up``, if ``x`` is that and its parts are read once; else None."""
    factors = arguments_of(x, aten.mul.Tensor)
    for activated, other in (factors, factors[::-1]) if factors else ():
        gate = arguments_of(activated, aten.silu.default)
        if gate and len(activated.users) == 1 and alike(types, x, *gate, other):
            return gate[0], other
    return None


def take_coefficients(form: SiteForm, node: fx.Node, index: int) -> None:
    """Lets the branch read result ``index`` of a site's node, which lies before it."""
    if form.branch is not None:
        with node.graph.inserting_after(node):
            coefficients = node.graph.call_function(operator.getitem, (node, index))
        coefficients.meta.update(form.branch.meta)
        form.branch.replace_all_uses_with(coefficients)


def _first_of(value: object) -> object:
    """The operator whose first result a node takes, if nothing else reads that; else the value itself."""
    if isinstance(value, fx.Node) and value.target == operator.getitem and value.args[1] == 0:
        return value.args[0] if len(value.users) == 1 else value
    return value


def _only_read_here(value: object, target: object) -> fx.Node | None:
    """The node, if it calls this operator and its (first) result is read once."""
    if not isinstance(value, fx.Node) or value.target != target:
        return None
    readers = [user for user in value.users if user.args[1:] != (1,)]
    return value if len(readers) == 1 else None
