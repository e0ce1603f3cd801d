"""The flavours: what a quantized linear is in ONNX."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

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
        codes = stored = unsigned_codes(c, x, features, grid, four=True)
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

    ``(codes W) scale weight_scale`` is one kernel there. All that is added to it, the zero point's part among it, is
    one product of few columns: ``[-zero scale | one of the state | coefficients] [column_sum weight_scale; state bias;
    image]``.
    """

    name: str = "integer"
    weights_only: bool = False

    def quantized(self, c: Context, x: ir.Value, features: int, grid: Grid) -> Quantized:
        """UINT8 codes."""
        return Quantized(unsigned_codes(c, x, features, grid, four=False), None, features, grid)

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
        w = weight.codes
        if weight.codes.dtype == ir.DataType.INT4:
            w = e("Cast", w, name=f"{weight.name}.weight_int8", to=int(ir.DataType.INT8))
        total = e.cast(e("MatMulInteger", q.codes, w), ir.DataType.FLOAT)
        y = e("Mul", total, e("Mul", q.grid.scale, weight.scale))
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
            columns.append(e("Gather", np.eye(states, dtype=np.float32), more.state, axis=0))
            rows.append(
                more.state_bias if more.bias is None else e("Add", more.state_bias, more.bias)
            )
        if more.kept is not None:
            columns.append(more.kept)
            rows.append(wide_image(c, more.image))
        left = columns[0] if len(columns) == 1 else e("Concat", *columns, axis=-1)
        right = rows[0] if len(rows) == 1 else e("Concat", *rows, axis=0)
        y = e("Add", y, e("MatMul", left, right))
        return y if more.bias is None or more.state_bias is not None else e("Add", y, more.bias)


FLAVOURS: dict[str, Flavour] = {
    one.name: one for one in (Qdq(), Integer(), Qdq("nbits", weights_only=True))
}
"""By name."""
