"""The Triton target: sites and integer linears by GPU kernels; all else stays torch's, for torch.compile to fuse."""

from __future__ import annotations

from torch import fx

from starquant_fx.kernels import triton as _kernels  # noqa: F401 -- registers the operators
from starquant_fx.lowering.linear_form import by_site, linear_forms
from starquant_fx.lowering.tables import Laid, Tables
from starquant_fx.lowering.triton_branch import is_reference, multiply_branches
from starquant_fx.lowering.triton_linear import use_linear_kernel
from starquant_fx.lowering.triton_site import KEPT, use_site_kernel
from starquant_fx.operators import op
from starquant_fx.program import Program, drop_unread_tensors

TABLES = "starquant_triton"
"""Tensors in the kernels' layouts are kept below this module."""


def lower(program: Program, laid: Laid) -> fx.GraphModule:
    """Returns a callable whose integer linears and sites run in the kernels.

    TAC is taken at the fourth of its places: in the kernel before o_proj's basis (``tile_prepare``). Lowering needs no
    GPU, so that graphs and costs can be looked at anywhere; calls do.

    Args:
        program: A fused program, with its tensors or with fake ones; it stays as it is.
        laid: See ``Tables``.

    Returns:
        The module: placeholders in, logits out.
    """
    module = program.copied_module()
    graph, tables = module.graph, Tables(laid, module, TABLES)
    for node in list(graph.nodes):
        if node.target in (op("transform_quantize"), op("quantize_activation")):
            use_site_kernel(module, node, tables)
    fused = linear_forms(graph, lambda coefficients, _: not is_reference(coefficients), KEPT)
    for forms in by_site(fused):
        use_linear_kernel(module, forms, tables)
    multiply_branches(module, tables)
    graph.eliminate_dead_code()
    drop_unread_tensors(module)
    module.recompile()
    return module.eval()
