"""The CPU target: integer products by VNNI kernels; what they do not cover runs the reference implementations."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from starquant_fx.errors import LoweringError
from starquant_fx.kernels import cpu
from starquant_fx.lowering.choice import log_choice
from starquant_fx.lowering.cpu_attention import use_attention_kernels
from starquant_fx.lowering.cpu_site import use_site_kernel
from starquant_fx.lowering.matching import add_tensor, alike, arguments_of, become, tensors_of
from starquant_fx.operators import op
from starquant_fx.program import Program, drop_unread_tensors

PANEL_LINEAR = torch.ops.starquant.panel_linear.default
PAIRS = "pairs"
"""Images of branches in the kernel's layout are named so, below the module that the image belongs to."""
ARGUMENTS = 14
"""Of ``panel_linear``; the last three, of a branch and a residual, may be left out."""
SHARED = (0, 1, 2, 6, 8, 10, 11)
"""Those that linears must have in common to be one product: codes, scale, zero, bits, state, type, coefficients."""


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
    log_choice("cpu", program.device)
    if cpu.unavailable() is None:
        for node in list(graph.nodes):
            if node.target == op("quantized_linear"):
                become(node, PANEL_LINEAR, *node.args)
            elif node.target in (op("transform_quantize"), op("quantize_activation")):
                use_site_kernel(module, node)
        for node in list(graph.nodes):
            if node.target == op("add_low_rank"):
                _fuse_branch(module, node)
        graph.eliminate_dead_code()
        for node in graph.nodes:
            if node.target == torch.ops.aten.add.Tensor:
                _fuse_residual(node)
        graph.eliminate_dead_code()
        _join_linears(graph)
        use_attention_kernels(graph)
        graph.eliminate_dead_code()
    drop_unread_tensors(module)
    module.recompile()
    return module.eval()


def _fuse_branch(module: fx.GraphModule, node: fx.Node) -> None:
    """Lets an integer linear add what its low-rank branch does."""
    linear, state, coefficients, image = node.args
    assert isinstance(linear, fx.Node)
    assert isinstance(image, fx.Node)
    tensor = tensors_of(module, image)
    alone = linear.target == PANEL_LINEAR and len(linear.users) == 1
    if not alone or tensor.shape[1] > cpu.RANK:
        return
    codes, scale, zero, laid, weight_scale, sums, bits, bias, _, state_bias, dtype = linear.args
    with module.graph.inserting_before(node):
        pairs = add_tensor(module, f"{image.target}_{PAIRS}", cpu.branch_image(tensor))
    arguments = (
        *(codes, scale, zero, laid, weight_scale, sums, bits),
        *(bias, state, state_bias, dtype, coefficients, pairs),
    )
    become(node, PANEL_LINEAR, *arguments)


def _fuse_residual(node: fx.Node) -> None:
    """Lets an integer linear add the residual that its outputs are added to."""
    for linear, residual in (node.args, node.args[::-1]):
        given = arguments_of(linear, PANEL_LINEAR)
        alone = isinstance(linear, fx.Node) and len(linear.users) == 1
        if given and alone and not node.kwargs and alike(node, linear, residual):
            become(node, PANEL_LINEAR, *_all(given)[:-1], residual)
            break


def _all(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those of ``panel_linear``, the ones that were left out too."""
    return (*arguments, *[None] * (ARGUMENTS - len(arguments)))


def _join_linears(graph: fx.Graph) -> None:
    """Makes the linears of a site one product: q, k and v, or gate and up."""
    sites: dict[tuple[Any, ...], list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target == PANEL_LINEAR:
            given = _all(node.args)
            sites.setdefault(tuple(given[i] for i in SHARED), []).append(node)
    for nodes in sites.values():
        if len(nodes) == 1:
            continue
        columns = zip(*(_all(node.args) for node in nodes), strict=True)
        arguments = [of[0] if i in SHARED else list(of) for i, of in enumerate(columns)]
        first = nodes[0]
        for source in [s for node in nodes[1:] for s in node.all_input_nodes if s > first]:
            first.prepend(source)  # their tables
        with graph.inserting_before(first):
            joined = graph.call_function(
                torch.ops.starquant.panel_linears.default, tuple(arguments)
            )
        for i, node in enumerate(nodes):
            become(node, operator.getitem, joined, i)
