"""What the CPU target does to the transforms and the quantizer of a site, and to what stands before them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from starquant_fx.kernels import cpu
from starquant_fx.lowering.matching import add_tensor, alike, arguments_of, become, tensors_of
from starquant_fx.operators import op
from starquant_fx.program import facts

aten = torch.ops.aten
TABLES = "starquant_cpu"
"""Sites' tables are kept below this module."""
PLAIN = (None, None, (), "dense", 0, (), None, None)
"""The transforms of a site that has none, as ``transform_quantize`` takes them."""


def use_site_kernel(module: fx.GraphModule, node: fx.Node) -> None:
    """Replaces a site's transforms and quantizer by one kernel, with the operators before it that only it reads."""
    graph = module.graph
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
    correction, direction, basis, *others = (
        tensors_of(module, value) for value in (matrix, directions, factors, offset, means, clip)
    )
    if not cpu.covers(str(structure), basis, direction, correction):
        return
    shift, mean, clipping = others
    edges: Any = bounds
    tables = cpu.site_tables(correction, shift, mean, direction, basis, edges, clipping)
    prefix = f"{TABLES}.{facts(node)['site'].replace('.', '_')}"
    module.add_submodule(prefix, torch.nn.Module())
    with graph.inserting_before(node):
        read = [
            None if table is None else add_tensor(module, f"{prefix}.{name}", table)
            for name, table in zip(cpu.TABLES, tables, strict=True)
        ]
    rank = 0 if direction is None else direction.shape[-1]
    assert isinstance(x, fx.Node)
    x, other, eps = _source(x)
    arguments = (x, state, read, rank, shared, bits, symmetric, other, eps)
    become(node, torch.ops.starquant.site_codes.default, *arguments)
    if branch is not None:
        with graph.inserting_after(node):
            coefficients = graph.call_function(operator.getitem, (node, 3))
        coefficients.meta.update(branch.meta)
        branch.replace_all_uses_with(coefficients)


def _source(x: fx.Node) -> tuple[fx.Node, fx.Node | None, float | None]:
    """What ``site_codes`` reads to compute ``x`` itself: x, other and eps, see there."""
    if len(x.users) > 1:
        return x, None, None
    factors = arguments_of(x, aten.mul.Tensor)
    for activated, other in (factors, factors[::-1]) if factors else ():
        gate = arguments_of(activated, aten.silu.default)
        if gate and len(activated.users) == 1 and alike(x, *gate, other):
            return gate[0], other, None
    normed = (arguments_of(x, aten._to_copy.default) or (x,))[0]
    match arguments_of(normed, aten.rms_norm.default):
        case (wide, [_], None, float(eps)) if len(normed.users) == 1:
            source = (arguments_of(wide, aten._to_copy.default) or (wide,))[0]
            if wide.meta["val"].dtype == torch.float32 and alike(x, source):
                return source, None, eps
    return x, None, None


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
