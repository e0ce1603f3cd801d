"""What the CPU target does to the transforms and the quantizer of a site, and to what stands before them."""

from __future__ import annotations

import functools
from functools import partial

import torch
from torch import Tensor, fx

from starquant_fx.kernels import cpu
from starquant_fx.lowering.matching import become
from starquant_fx.lowering.site_form import (
    before_norm,
    before_swiglu,
    site_form,
    take_coefficients,
)
from starquant_fx.lowering.tables import Tables
from starquant_fx.program import facts

KEPT = (torch.bfloat16, torch.float32)
"""Types that the kernels read and write as they are."""


def use_site_kernel(module: fx.GraphModule, node: fx.Node, tables: Tables) -> None:
    """Replaces a site's transforms and quantizer by one kernel, with the operators before it that only it reads."""
    form = site_form(module, node)
    if not cpu.covers(form.structure, form.factors, form.directions, form.matrix):
        return
    site = facts(node)["site"]

    @functools.cache
    def laid() -> list[Tensor | None]:
        return cpu.site_tables(
            *(form.matrix, form.offset, form.means, form.directions),
            *(form.factors, form.bounds, form.clip),
        )

    def table(index: int) -> Tensor | None:
        return laid()[index]

    read = [tables.read(node, site, n, partial(table, i)) for i, n in enumerate(cpu.TABLES)]
    rank = 0 if form.directions is None else form.directions.shape[-1]
    x, other, eps = _source(form.x)
    arguments = (x, form.state, read, rank, form.shared, form.bits, form.symmetric, other, eps)
    become(node, torch.ops.starquant.site_codes.default, *arguments)
    take_coefficients(form, node, 3)


def _source(x: fx.Node) -> tuple[fx.Node, fx.Node | None, float | None]:
    """What ``site_codes`` reads to compute ``x`` itself: x, other and eps, see there."""
    if len(x.users) == 1 and (pair := before_swiglu(x, KEPT)) is not None:
        return (*pair, None)
    source, eps = before_norm(x, KEPT)
    return source, None, eps
