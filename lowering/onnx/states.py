"""Token states, and what a site does to activations before its quantizer, as ONNX nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from starquant_fx.kernels import reference
from starquant_fx.lowering.onnx.context import Context
from starquant_fx.lowering.onnx.translate import FACTORS

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
    return c.emit("Sub", x, c.emit("Gather", means, state, axis=0))


def rotate(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.rotate``."""
    x, *factors = c.inputs(node, 1 + FACTORS)
    return [rotated(c, x, [f for f in factors if f is not None], c.text(node, "structure"))]


def rotated(c: Context, x: ir.Value, factors: list[ir.Value], structure: str) -> ir.Value:
    """``x Q``, [B, L, d]."""
    e = c.emit
    if structure == "dense":
        return e("MatMul", x, factors[0])
    if structure == "block":
        return _by_block(c, x, factors[0])
    if structure == "hadamard":
        x, factors = e("Mul", x, factors[0]), factors[1:]
    left, right = factors
    a, b = (c.shape(f)[0] for f in factors)
    rows = e("MatMul", e.grouped(x, (a, b)), right)
    columns = c.derived(left, f"{left.name}_transposed", lambda t: t.T, (a, a))
    return e.grouped(e("MatMul", columns, rows), (a * b,))


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
    return [gated(c, x, state, shared, bounds, c.features(x))]


def gated(
    c: Context, x: ir.Value, state: ir.Value, shared: int, bounds: list[int], features: int
) -> ir.Value:
    """[B, L, d] with other states' coordinates zero."""
    table = reference.gate_table(features, shared, bounds).float().numpy()
    return c.emit("Mul", x, c.emit("Gather", table, state, axis=0))


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
    return [c.emit("Add", y, c.emit("Gather", bias, state, axis=0))]


def split_low_rank(c: Context, node: ir.Node) -> list[ir.Value]:
    """``reference.split_low_rank``; the coefficients are [..., S k], zero but for the token's state."""
    e = c.emit
    x, state, directions = c.inputs(node, 3)
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
    kept = e("Mul", e("MatMul", x, wide), e("Gather", own, state, axis=0))
    assert x.shape is not None
    kept.shape, kept.type = ir.Shape([*x.shape[:-1], width]), x.type
    return [e("Sub", x, e("MatMul", kept, back)), kept]


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
