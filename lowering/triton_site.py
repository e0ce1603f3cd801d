"""What the Triton target does to the transforms and the quantizer of a site, and to a norm before them."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.kernels.triton import covers, prepares
from starquant_fx.lowering.matching import become
from starquant_fx.lowering.site_form import SiteForm, before_norm, site_form, take_coefficients
from starquant_fx.lowering.tables import Tables
from starquant_fx.lowering.triton_branch import columns, padded
from starquant_fx.operators import op
from starquant_fx.program import facts

KEPT = (torch.bfloat16, torch.float16, torch.float32)
"""Types that the kernels read and write as they are."""


def use_site_kernel(module: fx.GraphModule, node: fx.Node, tables: Tables) -> None:
    """Replaces a site by ``tile_site``.

    With TAC or a low-rank branch ``tile_prepare`` stands before it, and also before a basis that the kernels do not
    have, which stays the reference's between the two. TAC and a branch of sizes that ``tile_prepare`` does not have
    stay the reference's as well.
    """
    form = site_form(module, node)
    site, dtype = facts(node)["site"], form.x.meta["val"].dtype
    block = 1 if form.matrix is None else form.matrix.shape[-1]
    if not prepares(block, columns(form.directions), dtype):
        form = _behind_reference(form, node)
    x, eps = before_norm(form.x, KEPT)
    shift = tables.read(node, site, "shift", lambda: _shift(form))
    factors = [
        tables.read(node, site, f"factor_{i}", lambda f=f: _typed(f, dtype))  # type: ignore[misc]
        for i, f in enumerate(form.factors)
    ]
    covered = covers(form.structure, form.factors, dtype)
    apart = not covered and (eps is not None or shift is not None)
    if apart or form.matrix is not None or form.directions is not None:
        x, eps, shift = _prepared(node, form, (x, eps, shift), tables), None, None
    if not covered:
        with module.graph.inserting_before(node):
            x = module.graph.call_function(op("rotate"), (x, factors, form.structure))
        factors = []
    clip = tables.read(node, site, "clip", lambda: _typed(form.clip, torch.float32))
    state = form.state if shift is not None or form.bounds else None
    gates = (form.structure, form.shared, list(form.bounds))
    quantizer = (form.bits, form.symmetric, clip)
    arguments: Any = (x, eps, state, shift, factors, *gates, *quantizer)
    become(node, torch.ops.starquant.tile_site.default, *arguments)


def _behind_reference(form: SiteForm, node: fx.Node) -> SiteForm:
    """What is left of a site after TAC, centring and branch, which stay the reference's operators."""
    x: Any = node.args[0]  # with a branch it stands behind all three
    if form.directions is None:
        means, matrix, offset = (node.args[i] for i in (2, 7, 8))
        calls = [("compensate", (matrix, offset)), ("center", (form.state, means))]
        for name, arguments in calls if form.means is not None else calls[:1]:
            with node.graph.inserting_before(node):
                x = node.graph.call_function(op(name), (x, *arguments))
            x.meta.update(form.x.meta)
    nothing: dict[str, Any] = dict.fromkeys(("matrix", "offset", "means", "directions", "branch"))
    return dataclasses.replace(form, x=x, **nothing)


def _prepared(
    node: fx.Node, form: SiteForm, source: tuple[fx.Node, Any, fx.Node | None], tables: Tables
) -> fx.Node:
    """What ``tile_prepare`` makes of the source (x, eps, shift) of a site; its branch reads the coefficients."""
    (x, eps, shift), site = source, facts(node)["site"]
    dtype, graph = form.x.meta["val"].dtype, node.graph
    directions = tables.read(
        node, site, "directions", lambda: _typed(padded(form.directions), dtype)
    )
    reduce = directions  # without TAC they are the same
    if form.matrix is not None:
        reduce = tables.read(node, site, "reduce", lambda: _typed(_reduce(form), dtype))
    alone = shift is not None and form.means is None and form.directions is None
    arguments = (
        *(x, eps, tables.read(node, site, "matrix", lambda: _typed(form.matrix, dtype))),
        _one_state(node, x) if alone else form.state,  # TAC's bias is that of every state
        *(shift, directions, reduce, tables.read(node, site, "start", lambda: _start(form))),
    )
    with graph.inserting_before(node):
        prepared = graph.call_function(torch.ops.starquant.tile_prepare.default, arguments)
        rest = graph.call_function(operator.getitem, (prepared, 0))
    rest.meta.update(form.x.meta)
    take_coefficients(form, prepared, 1)
    return rest


def _one_state(node: fx.Node, x: fx.Node) -> fx.Node:
    """A state of zero for every token of [..., d]."""
    graph = node.graph
    with graph.inserting_before(node):
        first = graph.call_function(torch.ops.aten.select.int, (x, -1, 0))
        state = graph.call_function(
            torch.ops.aten.zeros_like.default, (first,), {"dtype": torch.int64}
        )
    value = x.meta["val"]
    first.meta["val"] = value.new_empty(value.shape[:-1])
    state.meta["val"] = value.new_empty(value.shape[:-1], dtype=torch.int64)
    return state


def _typed(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype).contiguous()


def _shift(form: SiteForm) -> Tensor | None:
    """What is added before the branch: TAC's bias less the mean of the state, float32 [S or 1, d]."""
    parts = [] if form.offset is None else [form.offset.float()[None]]
    parts += [] if form.means is None else [-form.means.float()]
    if not parts:
        return None
    rows = 1 if form.directions is None else len(form.directions)
    shift = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return shift.expand(max(rows, len(shift)), -1).contiguous()


def _reduce(form: SiteForm) -> Tensor | None:
    """What coefficients are read off the input of TAC with: ``M^T U`` of each state, float32 [S, d, k]."""
    u = padded(form.directions)
    if u is None:
        return None
    blocks, size = form.matrix.shape[:2]
    split = u.float().unflatten(1, (blocks, size))
    return torch.einsum("bji,sbjk->sbik", form.matrix.float(), split).flatten(1, 2)


def _start(form: SiteForm) -> Tensor | None:
    """The coefficients of an input of zeros, float32 [S, k]."""
    u, shift = padded(form.directions), _shift(form)
    if u is None:
        return None
    u = u.float()
    if shift is None:
        return u.new_zeros(u.shape[0], u.shape[2])
    return torch.einsum("sdk,sd->sk", u, shift.expand(u.shape[:2]))
