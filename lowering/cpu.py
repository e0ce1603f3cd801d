"""The CPU target: integer products by VNNI kernels; what they do not cover runs the reference implementations."""

from __future__ import annotations

import functools
import logging
import operator
from typing import Any

import torch
from torch import fx

from starquant_fx.errors import LoweringError
from starquant_fx.kernels import cpu
from starquant_fx.lowering.cpu_attention import become, use_attention_kernels
from starquant_fx.operators import op
from starquant_fx.program import Program, drop_unread_tensors, facts

TABLES = "starquant_cpu"
"""Sites' tables are kept below this module."""
PAIRS = "pairs"
"""Images of branches in the kernel's layout are named so, below the module that the image belongs to."""


def lower(program: Program) -> fx.GraphModule:
    """Returns a callable whose integer linears and sites run in the kernels.

    Args:
        program: A fused program with its tensors; it stays as it is.

    Returns:
        The module: placeholders in, logits out. On a machine without the kernels it is what ``reference`` returns;
        that is logged once.

    Raises:
        LoweringError: The program is on another device.
    """
    if program.device.type != "cpu":
        raise LoweringError(
            "the target cpu runs on the CPU",
            where="target",
            expected="a model on the CPU, or target='reference'",
            got=f"a model on {program.device}",
            hint="compile(..., device='cpu') copies the model",
        )
    module = program.copied_module()
    graph = module.graph
    reason = cpu.unavailable()
    if reason is not None:
        _log(reason)
    else:
        for node in list(graph.nodes):
            if node.target == op("quantized_linear"):
                become(node, torch.ops.starquant.panel_linear.default, *node.args)
            elif node.target == op("transform_quantize"):
                _use_site_kernel(module, node)
        for node in list(graph.nodes):
            if node.target == op("add_low_rank"):
                _fuse_branch(module, node)
        use_attention_kernels(graph)
        graph.eliminate_dead_code()
    drop_unread_tensors(module)
    module.recompile()
    return module.eval()


@functools.cache
def _log(reason: str) -> None:
    logging.getLogger("starquant_fx").warning("the reference kernels stand in: %s", reason)


def _fuse_branch(module: fx.GraphModule, node: fx.Node) -> None:
    """Lets an integer linear add what its low-rank branch does."""
    linear, state, coefficients, image = node.args
    assert isinstance(linear, fx.Node)
    assert isinstance(image, fx.Node)
    tensor = _tensors(module, image)
    alone = linear.target == torch.ops.starquant.panel_linear.default and len(linear.users) == 1
    if not alone or tensor.shape[1] > cpu.RANK:
        return
    codes, scale, zero, laid, weight_scale, sums, bits, bias, _, state_bias, dtype = linear.args
    with module.graph.inserting_before(node):
        pairs = _kept(module, f"{image.target}_{PAIRS}", cpu.branch_image(tensor))
    arguments = (
        *(codes, scale, zero, laid, weight_scale, sums, bits),
        *(bias, state, state_bias, dtype, coefficients, pairs),
    )
    become(node, torch.ops.starquant.panel_linear.default, *arguments)


def _use_site_kernel(module: fx.GraphModule, node: fx.Node) -> None:
    """Replaces a site's transforms and quantizer by one kernel, with the operators before it that only it reads."""
    graph = module.graph
    x, state, means, factors, structure, shared, bounds, matrix, offset, bits, symmetric, clip = (
        node.args
    )
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
        _tensors(module, value) for value in (matrix, directions, factors, offset, means, clip)
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
            None if table is None else _kept(module, f"{prefix}.{name}", table)
            for name, table in zip(cpu.TABLES, tables, strict=True)
        ]
    rank = 0 if direction is None else direction.shape[-1]
    arguments = (x, state, read, rank, shared, bits, symmetric)
    become(node, torch.ops.starquant.site_codes.default, *arguments)
    if branch is not None:
        with graph.inserting_after(node):
            coefficients = graph.call_function(operator.getitem, (node, 3))
        coefficients.meta.update(branch.meta)
        branch.replace_all_uses_with(coefficients)


def _tensors(module: fx.GraphModule, value: Any) -> Any:
    """The tensors that nodes in an argument read."""
    return fx.map_arg(value, lambda n: operator.attrgetter(str(n.target))(module))


def _kept(module: fx.GraphModule, name: str, tensor: torch.Tensor) -> fx.Node:
    """Adds a tensor to a module that has the name's owner, and a node that reads it where nodes are inserted now."""
    owner, _, leaf = name.rpartition(".")
    module.get_submodule(owner).register_buffer(leaf, tensor)
    return module.graph.get_attr(name)


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
