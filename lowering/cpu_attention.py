"""What the CPU target does to attention and to the rotary embedding before it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from starquant_fx.lowering.matching import arguments_of, become, same
from starquant_fx.program import ATTENTION

aten = torch.ops.aten
ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def use_attention_kernels(graph: fx.Graph) -> None:
    """Puts kernels in the place of the attentions and rotary embeddings that they cover; the others stay torch's.

    Attention is covered in bfloat16, with any mask but the causal flag. In float32 it is not: products in bfloat16
    would lose what the model has, and float32 products are hardly faster than torch's. The rotary embedding is covered
    in both, as LLaDA and Dream compute it.

    Args:
        graph: With fake values in its nodes' ``meta``.
    """
    for node in list(graph.nodes):
        if node.target != ATTENTION:
            continue
        given = dict(zip(ARGUMENTS, node.args, strict=False)) | node.kwargs
        for name in ("query", "key"):
            read = _rotary(given[name])
            if read is not None:
                become(given[name], torch.ops.starquant.rotary.default, *read)
        if _covered(given):
            q, k, v = (given[name] for name in ARGUMENTS[:3])
            mask, scale = given.get("attn_mask"), given.get("scale")
            become(node, torch.ops.starquant.attention.default, q, k, v, mask, scale)


def _covered(given: dict[str, Any]) -> bool:
    """Whether the kernel computes an attention of these arguments."""
    q, k, v = (given[name].meta["val"] for name in ARGUMENTS[:3])
    scale = given.get("scale")
    return (
        all(x.dim() == 4 and x.dtype == torch.bfloat16 for x in (q, k, v))
        and not (given.get("dropout_p") or given.get("is_causal"))
        and (scale is None or (isinstance(scale, (int, float)) and scale > 0))
        and all(same(a, b) for a, b in zip(k.shape, v.shape, strict=True))
        and same(q.shape[0], k.shape[0])
        and same(q.shape[3], k.shape[3])
        and same(q.shape[1] % k.shape[1], 0)
    )


def _rotary(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """What a rotary embedding reads: x [B, H, L, D], cos and sin [B or 1, 1, L, D]; None if the node is none.

    ``x cos + cat(-x2, x1) sin`` in float32, where x1 and x2 are the halves of x; from and to bfloat16 around it.
    """
    try:
        (total,) = arguments_of(node, aten._to_copy.default) or (node,)
        with_cos, with_sin = arguments_of(total, aten.add.Tensor)
        wide, cos = arguments_of(with_cos, aten.mul.Tensor)
        turned, sin = arguments_of(with_sin, aten.mul.Tensor)
        (negative, first), axis = arguments_of(turned, aten.cat.default)
        (second,) = arguments_of(negative, aten.neg.default)
        (halves, zero), (again, one) = (arguments_of(x, operator.getitem) for x in (first, second))
        source, size, split_axis = arguments_of(halves, aten.split.Tensor)
    except (TypeError, ValueError):  # another form: there is less, or something else, to unpack
        return None
    (x,) = arguments_of(wide, aten._to_copy.default) or (wide,)
    value, *tables = (n.meta["val"] for n in (x, cos, sin))
    formed = (
        (source is wide and again is halves and (zero, one) == (0, 1))
        and axis == split_axis == -1
        and value.dim() == 4
        and value.dtype in (torch.bfloat16, torch.float32)
        and node.meta["val"].dtype == value.dtype
        and same(2 * size, value.shape[3])
    )
    if not formed or not all(_is_table(table, value) for table in tables):
        return None
    return x, cos, sin


def _is_table(table: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether it is float32 [B or 1, 1, L, D] where x is [B, H, L, D]."""
    if table.dtype != torch.float32 or table.dim() != 4:
        return False
    rows = all(same(a, b) for a, b in zip(table.shape[1:], (1, *x.shape[2:]), strict=True))
    return rows and (same(table.shape[0], 1) or same(table.shape[0], x.shape[0]))
