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
from starquant_fx.lowering.cpu_site import KEPT, use_site_kernel
from starquant_fx.lowering.linear_form import LinearForm, by_site, linear_forms
from starquant_fx.lowering.matching import become, call_before, tensors_of
from starquant_fx.lowering.tables import Laid, Tables
from starquant_fx.operators import op
from starquant_fx.program import Program, drop_unread_tensors

TABLES = "starquant_cpu"
"""Tensors in the kernels' layouts are kept below this module."""


def lower(program: Program, laid: Laid) -> fx.GraphModule:
    """Returns a callable whose integer linears and sites run in the kernels.

    Args:
        program: A fused program with its tensors; it stays as it is.
        laid: See ``Tables``.

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
    tables = Tables(laid, module, TABLES)
    if cpu.unavailable() is None:
        for node in list(graph.nodes):
            if node.target in (op("transform_quantize"), op("quantize_activation")):
                use_site_kernel(module, node, tables)
        for forms in by_site(linear_forms(graph, _covers, KEPT)):
            _use_linear_kernel(module, forms, tables)
        graph.eliminate_dead_code()
        use_attention_kernels(graph)
        graph.eliminate_dead_code()
    drop_unread_tensors(module)
    module.recompile()
    return module.eval()


def _covers(coefficients: fx.Node, image: fx.Node) -> bool:
    """Whether the kernel of linears has room for a branch."""
    return int(image.meta["val"].shape[1]) <= cpu.RANK


def _use_linear_kernel(module: fx.GraphModule, forms: list[LinearForm], tables: Tables) -> None:
    """Makes the linears of a site one product."""
    f, images = forms[0], [_image(module, form, tables) for form in forms]
    arguments: tuple[Any, ...]
    if len(forms) == 1:
        arguments = (
            *(f.codes, f.scale, f.zero, f.packed, f.weight_scale, f.column_sum, f.weight_bits),
            *(f.bias, f.state, f.state_bias, f.dtype, f.coefficients, images[0], f.residual),
        )
        become(f.end, torch.ops.starquant.panel_linear.default, *arguments)
        return
    arguments = (
        *(f.codes, f.scale, f.zero, [form.packed for form in forms]),
        *([form.weight_scale for form in forms], [form.column_sum for form in forms]),
        *(f.weight_bits, [form.bias for form in forms], f.state),
        *([form.state_bias for form in forms], f.dtype, f.coefficients),
        *(images, [form.residual for form in forms]),
    )
    joined = call_before(f.end, torch.ops.starquant.panel_linears.default, arguments)
    for i, form in enumerate(forms):
        become(form.end, operator.getitem, joined, i)


def _image(module: fx.GraphModule, form: LinearForm, tables: Tables) -> fx.Node | None:
    """The image of a linear's branch in the kernel's layout."""
    if form.image is None:
        return None
    image, name = tensors_of(module, form.image), str(form.image.target)
    return tables.read(form.end, name, "pairs", lambda: cpu.branch_image(image))
