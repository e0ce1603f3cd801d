"""Token states, and what a site does to activations before its quantizer, as ONNX nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from starquant_fx.kernels import reference
from starquant_fx.lowering.onnx.context import Context
from starquant_fx.lowering.onnx.emit import Operand
from starquant_fx.lowering.onnx.translate import FACTORS

Order = tuple[int, int]
"""Channels [b, a], given as (a, b), that were [a, b]."""
FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def token_state(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.token_state``."""
    (ids,) = c.inputs(node, 1)
    return [c.emit.cast(c.emit("Equal", ids, c.integer(node, "mask_token_id")), INT64)]


def ratio_state(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.ratio_state``."""
    e = c.emit
    state, keep = c.inputs(node, 2)
    shape = e("Shape", state)
    if keep is None:
        kept = e("Expand", np.ones(1, np.float32), shape)
    else:
        assert keep.shape is not None
        seen = keep
        if keep.dtype != ir.DataType.BOOL:
            plain = len(keep.shape) == 2
            zero = e("CastLike", 0.0 if plain else -1e4, keep)
            seen = e("Not", e("Equal", keep, zero)) if plain else e("Greater", keep, zero)
        kept = e.cast(seen, FLOAT)
        if len(keep.shape) == 4:
            kept = e("ReduceMax", kept, np.array([1, 2]), keepdims=0)
        kept = e("Expand", kept, shape)
    last = np.array([-1])
    masked = e("ReduceSum", e("Mul", e.cast(state, FLOAT), kept), last, keepdims=1)
    ratio = e("Div", masked, e("Max", e("ReduceSum", kept, last, keepdims=1), 1.0))
    for edge in c.floats(node, "edges"):
        above = e.cast(e("GreaterOrEqual", ratio, edge), INT64)
        state = e("Add", state, e("Mul", above, 2))
    return [state]


def center(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.center``."""
    x, state, means = c.inputs(node, 3)
    return [centered(c, x, state, means)]


def centered(c: Context, x: ir.Value, state: ir.Value, means: ir.Value) -> ir.Value:
    """[B, L, d] less the mean of the token's state."""
    return c.emit("Sub", x, by_state(c, means, state, c.shape(means)[0]))


def one_hot(c: Context, state: ir.Value, states: int) -> ir.Value:
    """States [B, L] as [B, L, S], 1 at the token's."""
    return c.emit("Gather", np.eye(states, dtype=np.float32), state, axis=0)


def by_state(c: Context, table: Operand, state: ir.Value, states: int) -> ir.Value:
    """Rows of a table [S, n] by the token's state, [B, L, n]: a product, as runtimes gather long rows slowly."""
    return c.emit("MatMul", one_hot(c, state, states), table)


def rotate(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.rotate``."""
    x, *factors = c.inputs(node, 1 + FACTORS)
    given = [f for f in factors if f is not None]
    turned, order = rotated(c, x, given, c.text(node, "structure"))
    return [turned if order is None else in_order(c, turned, order)]


def rotated(
    c: Context, x: ir.Value, factors: list[ir.Value], structure: str
) -> tuple[ir.Value, Order | None]:
    """``x Q``, [B, L, d], and the order of its channels.

    Of a Kronecker product's channels [a, b] the result is [b, a]: both products then have many rows. What reads it can
    have its own channels in that order.
    """
    e = c.emit
    if structure == "dense":
        return e("MatMul", x, factors[0]), None
    if structure == "block":
        return _by_block(c, x, factors[0]), None
    if structure == "hadamard":
        x, factors = e("Mul", x, factors[0]), factors[1:]
    left, right = factors
    a, b = (c.shape(f)[0] for f in factors)
    rows = e("MatMul", e.grouped(x, (a, b)), right)
    # In three dimensions, so that onnxruntime does not make transpose and product one kernel of many small products.
    many = e("Reshape", e("Transpose", rows, perm=[0, 1, 3, 2]), np.array([0, -1, a]))
    return e("Reshape", e("MatMul", many, left), np.array([0, -1, a * b])), (a, b)


def in_order(c: Context, x: ir.Value, order: Order) -> ir.Value:
    """Channels [b, a] as [a, b]."""
    a, b = order
    return c.emit.grouped(
        c.emit("Transpose", c.emit.grouped(x, (b, a)), perm=[0, 1, 3, 2]), (a * b,)
    )


def _by_block(c: Context, x: ir.Value, blocks: ir.Value) -> ir.Value:
    """``x_b B_b`` for each block b of channels; blocks [n, g, g]."""
    e = c.emit
    n, g, _ = c.shape(blocks)
    by_block = e("Transpose", e.grouped(x, (n, g)), perm=[0, 2, 1, 3])
    return e.grouped(e("Transpose", e("MatMul", by_block, blocks), perm=[0, 2, 1, 3]), (n * g,))


def gate(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.gate``."""
    x, state = c.inputs(node, 2)
    shared, bounds = c.integer(node, "shared"), c.integers(node, "bounds")
    table = reference.gate_table(c.features(x), shared, bounds)
    return [gated(c, x, state, table)]


def gated(c: Context, x: ir.Value, state: ir.Value, table: Tensor) -> ir.Value:
    """[B, L, d] times the row of a table [S, d] that the token's state says."""
    return c.emit("Mul", x, by_state(c, table.float().numpy(), state, len(table)))


def compensate(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.compensate``."""
    x, matrix, bias = c.inputs(node, 3)
    return [compensated(c, x, matrix, bias)]


def compensated(c: Context, x: ir.Value, matrix: ir.Value, bias: ir.Value) -> ir.Value:
    """TAC: ``M_b x_b + b_b``."""
    shape = c.shape(matrix)
    turned = c.derived(matrix, f"{matrix.name}_transposed", lambda t: t.mT, shape)
    return c.emit("Add", _by_block(c, x, turned), bias)


def compensate_by_state(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.compensate_by_state``."""
    e = c.emit
    x, state, matrix, bias = c.inputs(node, 4)
    index = np.array(c.integers(node, "index"), np.int64)
    chosen = e("Unsqueeze", e("Gather", index, state, axis=0), np.array([-1]))
    out: ir.Value | None = None
    for i in range(c.shape(matrix)[0]):
        y = compensated(c, x, c.part(matrix, i), c.part(bias, i))
        out = y if out is None else e("Where", e("Equal", chosen, i), y, out)
    assert out is not None
    return [out]


def add_state_bias(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.add_state_bias``."""
    y, state, bias = c.inputs(node, 3)
    return [c.emit("Add", y, by_state(c, bias, state, c.shape(bias)[0]))]


def split_low_rank(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.split_low_rank``; the coefficients are [..., S k], zero but for the token's state.

    With the centring before it, where nothing else reads that: ``c = x U - m U`` and ``x - [c | 1] [U^T; m]``, so that
    the means are rows of a product that is there anyway.
    """
    e = c.emit
    x, state, directions = c.inputs(node, 3)
    means = None
    if (source := x.producer()) is not None and source.op_type == "center":
        x, _, means = c.inputs(source, 3)
    states, features, rank = c.shape(directions)
    width = states * rank
    wide = c.derived(
        directions,
        f"{directions.name}_wide",
        lambda t: t.transpose(0, 1).flatten(1),
        (features, width),
    )
    back = c.derived(
        directions,
        f"{directions.name}_back",
        lambda t: t.transpose(1, 2).flatten(0, 1),
        (width, features),
    )
    own = np.kron(np.eye(states), np.ones((1, rank))).astype(np.float32)
    kept, rows, columns = e("MatMul", x, wide), [back], []
    if means is not None:
        kept = e("Sub", kept, by_state(c, e("MatMul", means, wide), state, states))
        rows, columns = [back, means], [one_hot(c, state, states)]
    kept = e("Mul", kept, by_state(c, own, state, states))
    assert x.shape is not None
    kept.shape, kept.type = ir.Shape([*x.shape[:-1], width]), x.type
    gone = e("MatMul", e.joined([kept, *columns], -1), e.joined(rows, 0))
    return [e("Sub", x, gone), kept]


def add_low_rank(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.add_low_rank``, of coefficients as ``split_low_rank`` gives them."""
    y, _, kept, image = c.inputs(node, 4)
    states, rank, outputs = c.shape(image)
    flat = c.derived(
        image, f"{image.name}_wide", lambda t: t.flatten(0, 1), (states * rank, outputs)
    )
    return [c.emit("Add", y, c.emit("MatMul", kept, flat))]


def greedy(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.greedy`` of the largest logit: largest, token and its probability, each [R]."""
    e = c.emit
    (logits,) = c.inputs(node, 1)
    last: Any = np.array([-1])
    largest = e("ReduceMax", logits, last, keepdims=1)
    total = e("ReduceSum", e("Exp", e("Sub", logits, largest)), last, keepdims=0)
    token = e("ArgMax", logits, axis=-1, keepdims=0)
    return [e("Squeeze", largest, last), token, e("Reciprocal", total)]
