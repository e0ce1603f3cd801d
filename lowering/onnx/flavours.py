"""The flavours: what a quantized linear is in ONNX."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from starquant_fx.errors import LoweringError
from starquant_fx.lowering.onnx.context import Context
from starquant_fx.lowering.onnx.sites import (
    Addends,
    Flavour,
    Grid,
    Quantized,
    Weight,
    dequantized_weight,
    unsigned_codes,
    wide_image,
)
from starquant_fx.lowering.onnx.states import one_hot

STEP, MOST_SHARE = 16, 8
"""Channels for the zero point are a multiple of the first, and at most one of so many of a linear's own."""


@dataclasses.dataclass(frozen=True)
class Qdq:
    """Standard nodes only: activations through QuantizeLinear and DequantizeLinear, weights through DequantizeLinear.

    Attributes:
        name: Of the flavour.
        weights_only: Whether activations stay in float32; onnxruntime then makes DequantizeLinear and MatMul one
            MatMulNBits.
    """

    name: str = "qdq"
    weights_only: bool = False

    def quantized(self, c: Context, x: ir.Value, features: int, grid: Grid) -> Quantized:
        """UINT4 or UINT8 codes, and what they stand for.

        onnxruntime takes UINT8 that is dequantized before a product with INT8 for a product of integers, in which its
        kernel then refuses the zero points of tokens; of UINT16 it does not.
        """
        e = c.emit
        codes = stored = unsigned_codes(c, x, grid, four=True)
        kind = ir.DataType.UINT4
        if grid.bits != 4:
            kind = ir.DataType.UINT16
            stored = e.cast(codes, kind)
        given = (stored, grid.scale, e.cast(grid.zero, kind))
        restored = e("DequantizeLinear", *given, axis=-1, block_size=features)
        return Quantized(codes, restored, features, grid)

    def dequantized(self, c: Context, q: Quantized) -> ir.Value:
        """What the codes stand for."""
        assert q.restored is not None
        return q.restored

    def linear(self, c: Context, q: Quantized, weight: Weight, more: Addends) -> ir.Value:
        """MatMul of both."""
        w = dequantized_weight(c, weight, q.features)
        return more.added(c, c.emit("MatMul", q.restored, w))


@dataclasses.dataclass(frozen=True)
class Integer:
    """Integer products: MatMulInteger of uint8 codes and int8 weights, which onnxruntime runs by its int8 kernels.

    ``(codes W) scale weight_scale`` is one kernel there. Of a linear with states all that is added to it, the zero
    point's part among it, is one product of few columns: ``[-zero scale | one of the state | coefficients] [column_sum
    weight_scale; state bias; image]``. Of one without, the zero point is a few channels more, whose weights add up to
    ``-column_sum``.
    """

    name: str = "integer"
    weights_only: bool = False

    def quantized(self, c: Context, x: ir.Value, features: int, grid: Grid) -> Quantized:
        """UINT8 codes."""
        return Quantized(unsigned_codes(c, x, grid, four=False), None, features, grid)

    def dequantized(self, c: Context, q: Quantized) -> ir.Value:
        """``(codes - zero) scale``."""
        e = c.emit
        return e("Mul", e("Sub", e.cast(q.codes, ir.DataType.FLOAT), q.grid.zero), q.grid.scale)

    def linear(self, c: Context, q: Quantized, weight: Weight, more: Addends) -> ir.Value:
        """The product and what is added to it."""
        e = c.emit
        assert weight.column_sum is not None
        if len(c.shape(weight.scale)) == 2:
            raise LoweringError(
                "the integer flavour has no scales of groups of channels",
                where=weight.name,
                expected="a scale per output channel",
                got=f"{c.shape(weight.scale)[0]} groups",
                hint="flavour='qdq'",
            )
        if more.state_bias is None and more.kept is None:
            wider = self._with_zero_point(c, q, weight)
            if wider is not None:
                return _plus_bias(c, self._product(c, q, weight, *wider), more.bias)
        y = self._product(c, q, weight, q.codes, weight.codes)
        columns = [e("Neg", e("Mul", q.grid.zero, q.grid.scale))]
        rows = [
            e(
                "Unsqueeze",
                e("Mul", e.cast(weight.column_sum, ir.DataType.FLOAT), weight.scale),
                np.array([0]),
            )
        ]
        if more.state_bias is not None:
            states = c.shape(more.state_bias)[0]
            assert more.state is not None
            columns.append(one_hot(c, more.state, states))
            rows.append(
                more.state_bias if more.bias is None else e("Add", more.state_bias, more.bias)
            )
        if more.kept is not None:
            columns.append(more.kept)
            rows.append(wide_image(c, more.image))
        y = e("Add", y, e("MatMul", e.joined(columns, -1), e.joined(rows, 0)))
        return y if more.bias is None or more.state_bias is not None else e("Add", y, more.bias)

    def _product(
        self, c: Context, q: Quantized, weight: Weight, codes: ir.Value, w: ir.Value
    ) -> ir.Value:
        """``(codes w) scale weight_scale``."""
        e = c.emit
        if w.dtype == ir.DataType.INT4:
            w = e("Cast", w, name=f"{w.name}_int8", to=int(ir.DataType.INT8))
        total = e.cast(e("MatMulInteger", codes, w), ir.DataType.FLOAT)
        return e("Mul", total, e("Mul", q.grid.scale, weight.scale))

    def _with_zero_point(
        self, c: Context, q: Quantized, weight: Weight
    ) -> tuple[ir.Value, ir.Value] | None:
        """Codes and weight with channels for the zero point; None where they would be many."""
        e = c.emit
        assert weight.column_sum is not None
        sums = c.value(weight.column_sum)
        needed = -(-int(sums.abs().max()) // _most(weight))
        channels = max(STEP, -(-needed // STEP) * STEP)
        if channels > q.features // MOST_SHARE:
            return None
        zero = e("Expand", e.cast(q.grid.zero, ir.DataType.UINT8), np.array([1, 1, channels]))
        shape = (q.features + channels, weight.outputs)
        wider = c.derived(
            weight.codes,
            f"{weight.name}.weight_and_zero",
            lambda t: torch.cat([t, spread(-sums, channels).to(t.dtype)]),
            shape,
            weight.codes.dtype,
        )
        return e("Concat", q.codes, zero, axis=-1), wider


def _plus_bias(c: Context, y: ir.Value, bias: ir.Value | None) -> ir.Value:
    """``y + bias`` [n], written ``y - (-bias)``.

    onnxruntime takes a constant that is added to an integer product for the bias of its fused kernel, and then
    multiplies it by the scales of the tokens as well.
    """
    if bias is None:
        return y
    negated = c.derived(bias, f"{bias.name}_negated", lambda t: -t, c.shape(bias))
    return c.emit("Sub", y, negated)


def _most(weight: Weight) -> int:
    """The largest weight of a zero point's channel.

    Below 8 bits two of its products with a uint8 fit in 16 bits, in which kernels without VNNI add them.
    """
    if weight.codes.dtype == ir.DataType.INT4:
        return 7
    return 127 if weight.bits == 8 else 63


def spread(sums: Tensor, rows: int) -> Tensor:
    """Integers [rows, n] that add up to ``sums`` [n] and differ by one at most in a column."""
    return (sums + torch.arange(rows)[:, None]).div(rows, rounding_mode="floor")


FLAVOURS: dict[str, Flavour] = {
    one.name: one for one in (Qdq(), Integer(), Qdq("nbits", weights_only=True))
}
"""By name."""
