"""The quantizer of a site and its linears, as ONNX nodes; how a linear computes is a flavour's."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from starquant_fx.errors import LoweringError
from starquant_fx.kernels import reference
from starquant_fx.lowering.onnx.context import Context
from starquant_fx.lowering.onnx.states import (
    Order,
    by_state,
    centered,
    compensated,
    gated,
    in_order,
    rotated,
)
from starquant_fx.lowering.onnx.translate import FACTORS
from starquant_fx.lowering.onnx.weights import codes_by_channel

TINY = float(torch.finfo(torch.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Of a site's quantizer.

    Attributes:
        bits: 2..8.
        scale: [B, L, 1].
        zero: [B, L, 1], float32 integers.
    """

    bits: int
    scale: ir.Value
    zero: ir.Value


@dataclasses.dataclass(frozen=True)
class Quantized:
    """Activations of a site.

    Attributes:
        codes: [B, L, d].
        restored: What they stand for [B, L, d]; None where the flavour does without.
        features: d.
        grid: Of the codes.
        order: Of the channels, if it is not the graph's; see ``states.rotated``.
    """

    codes: ir.Value
    restored: ir.Value | None
    features: int
    grid: Grid
    order: Order | None = None


@dataclasses.dataclass(frozen=True)
class Weight:
    """Of a linear.

    Attributes:
        name: Of the linear.
        codes: Signed integers [d, n], INT4 or INT8.
        scale: [n], or [groups, n].
        column_sum: int32 [n], the shape of ``scale``.
        bits: 2..8.
        outputs: n.
    """

    name: str
    codes: ir.Value
    scale: ir.Value
    column_sum: ir.Value | None
    bits: int
    outputs: int


@dataclasses.dataclass
class Addends:
    """What is added to a linear's product.

    Attributes:
        bias: [n] or None.
        state: [B, L] or None.
        state_bias: [S, n] or None.
        kept: Coefficients of the branch [B, L, S k] or None; see ``states.split_low_rank``.
        image: Of the branch [S, k, n] or None.
    """

    bias: ir.Value | None
    state: ir.Value | None
    state_bias: ir.Value | None
    kept: ir.Value | None = None
    image: ir.Value | None = None

    def added(self, c: Context, y: ir.Value) -> ir.Value:
        """``y`` [B, L, n] with all of it added, one by one."""
        e = c.emit
        if self.bias is not None:
            y = e("Add", y, self.bias)
        if self.state_bias is not None:
            assert self.state is not None
            y = e("Add", y, by_state(c, self.state_bias, self.state, c.shape(self.state_bias)[0]))
        if self.kept is not None:
            y = e("Add", y, e("MatMul", self.kept, wide_image(c, self.image)))
        return y


class Flavour(Protocol):
    """How quantized linears are written.

    Attributes:
        name: Of the flavour.
        weights_only: Whether activations are not quantized; the graph must then be one of ``weights_only``.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def weights_only(self) -> bool:
        """See above."""
        ...

    def quantized(self, c: Context, x: ir.Value, features: int, grid: Grid) -> Quantized:
        """Activations [B, L, d] on a grid."""
        ...

    def dequantized(self, c: Context, q: Quantized) -> ir.Value:
        """Activations back in float32."""
        ...

    def linear(self, c: Context, q: Quantized, weight: Weight, more: Addends) -> ir.Value:
        """A linear [B, L, n]."""
        ...


def wide_image(c: Context, image: Any) -> ir.Value:
    """The image of a branch [S, k, n] as [S k, n]."""
    states, rank, outputs = c.shape(image)
    width = states * rank
    return c.derived(image, f"{image.name}_wide", lambda t: t.flatten(0, 1), (width, outputs))


def transformed(
    c: Context, node: ir.Node, features: int, any_order: bool
) -> tuple[ir.Value, Order | None]:
    """What ``reference.transform_quantize`` does before its quantizer, [B, L, features].

    Args:
        c: The context.
        node: The node.
        features: Channels.
        any_order: Whether the channels may be left in another order.

    Returns:
        The activations, and the order of their channels.
    """
    x, state, means, matrix, offset, _, *factors = c.inputs(node, 6 + FACTORS)
    given = [factor for factor in factors if factor is not None]
    bounds = c.integers(node, "bounds")
    if matrix is not None and offset is not None:
        x = compensated(c, x, matrix, offset)
    if means is not None and state is not None:
        x = centered(c, x, state, means)
    order: Order | None = None
    if given:
        x, order = rotated(c, x, given, c.text(node, "structure"))
        if order is not None and not any_order:
            x, order = in_order(c, x, order), None
    if bounds and state is not None:
        table = reference.gate_table(features, c.integer(node, "shared"), bounds)
        x = gated(c, x, state, table if order is None else table.unflatten(1, order).mT.flatten(1))
    return x, order


def grid(c: Context, node: ir.Node, x: ir.Value, clip: ir.Value | None) -> Grid:
    """``reference.activation_range`` and ``reference.activation_grid``."""
    e, last = c.emit, np.array([-1])
    bits, symmetric = c.integer(node, "bits"), bool(c.integer(node, "symmetric"))
    low = e("Min", e("ReduceMin", x, last, keepdims=1), 0.0)
    high = e("Max", e("ReduceMax", x, last, keepdims=1), 0.0)
    if clip is not None:
        low, high = e("Mul", low, c.part(clip, 0)), e("Mul", high, c.part(clip, 1))
    if symmetric:
        half = 2 ** (bits - 1)
        high = e("Max", e("Neg", low), high)
        scale = e("Max", e("Div", high, float(max(half - 1, 1))), TINY)
        return Grid(bits, scale, e("Expand", np.array([half], np.float32), e("Shape", scale)))
    levels = float(2**bits - 1)
    scale = e("Max", e("Div", e("Sub", high, low), levels), TINY)
    zero = e("Clip", e("Round", e("Neg", e("Div", low, scale))), 0.0, levels)
    return Grid(bits, scale, zero)


def unsigned_codes(c: Context, x: ir.Value, grid: Grid, four: bool) -> ir.Value:
    """Codes on a grid: ``round(x / scale + zero)``, as the reference rounds it.

    QuantizeLinear rounds before it adds the zero point, so that half of the ties, which weights of few bits make
    frequent, would fall on the other side. It is given the sum, and a scale of one.

    Args:
        c: The context.
        x: [B, L, d].
        grid: The grid.
        four: Whether 4-bit codes may be UINT4; else all are UINT8.
    """
    e = c.emit
    nibbles = four and grid.bits == 4
    zero = np.array(0, ml_dtypes.uint4 if nibbles else np.uint8)
    codes = e("QuantizeLinear", e("Add", e("Div", x, grid.scale), grid.zero), 1.0, zero)
    if grid.bits == 8 or nibbles:
        return codes  # it saturates there
    return e("Min", codes, np.array(2**grid.bits - 1, np.uint8))


def weight_of(
    c: Context,
    packed: ir.Value,
    scale: ir.Value,
    column_sum: ir.Value | None,
    bits: int,
    features: int,
    order: Order | None = None,
) -> Weight:
    """A linear's weight from its packed codes, its channels in the order of what it multiplies."""
    name, kind = _name_of(packed), _type_of(bits)
    outputs = c.shape(scale)[0]
    codes = c.derived(
        packed,
        f"{name}.weight",
        lambda t: codes_by_channel(t, bits, outputs, features, order),
        (features, outputs),
        kind,
    )
    if len(c.shape(scale)) == 2:
        shape = c.shape(scale)[::-1]
        scale = c.derived(scale, f"{name}.weight_scale_by_group", lambda t: t.T, shape)
    return Weight(name, codes, scale, column_sum, bits, outputs)


def dequantized_weight(c: Context, weight: Weight, features: int) -> ir.Value:
    """A weight [d, n] in float32 by DequantizeLinear, which runtimes fuse with the product."""
    groups = c.shape(weight.scale)
    if len(groups) == 1:
        return c.emit("DequantizeLinear", weight.codes, weight.scale, axis=1)
    size = features // groups[0]
    return c.emit("DequantizeLinear", weight.codes, weight.scale, axis=0, block_size=size)


def by_output(c: Context, packed: ir.Value, scale: ir.Value, bits: int, features: int) -> ir.Value:
    """A weight [n, d] in float32 from codes that are stored so; no runtime fuses it with the product."""
    shape = c.shape(scale)
    codes = c.derived(
        packed,
        f"{_name_of(packed)}.weight",
        lambda t: reference.unpack(t, bits, shape[0], features),
        (shape[0], features),
        _type_of(bits),
    )
    if len(shape) == 1:
        return c.emit("DequantizeLinear", codes, scale, axis=0)
    return c.emit("DequantizeLinear", codes, scale, axis=1, block_size=features // shape[1])


def _name_of(packed: ir.Value) -> str:
    """The linear that packed codes are of."""
    return str(packed.name).removeprefix("starquant.").removesuffix(".packed")


def _type_of(bits: int) -> ir.DataType:
    """What codes of so many bits are stored as."""
    return ir.DataType.INT4 if bits <= 4 else ir.DataType.INT8


def no_codes(node: ir.Node) -> LoweringError:
    """The refusal of codes that did not come from a quantizer directly."""
    return LoweringError(
        "a linear reads codes that no quantizer made",
        where=str(node.name),
        expected="transform_quantize or quantize_activation before it",
        got="something between them",
        hint="export all logits, or another recipe",
    )
