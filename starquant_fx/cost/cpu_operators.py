"""Formulas of the CPU target's operators, in the types that its kernels multiply in."""

from __future__ import annotations

import sympy

from starquant_fx.cost.aten import NORM, SOFTMAX
from starquant_fx.cost.calls import Call, numel, size, tokens, unit
from starquant_fx.cost.reference_operators import QUANTIZE, Part, integer_product
from starquant_fx.cost.units import BF16, ELEMENTWISE, FP32
from starquant_fx.cost.work import Kind, Work, formula, summed

TABLES = (
    *("matrix", "offset", "means", "directions", "back"),
    *("signs", "left", "right", "bounds", "clip"),
)
"""As ``kernels.cpu.TABLES``, which the core cannot import; a test compares them."""
ACTIVATED = 2
"""Operations an element of ``silu(x) * other``."""


@formula("starquant.site_codes")
def site_codes(call: Call) -> Work:
    """Branch and left factor in bf16, TAC and right factor in fp32; a token reads its own state's tables only."""
    elements = numel(call.get("x"))
    table = dict(zip(TABLES, call.get("tables"), strict=True))
    passes = QUANTIZE + sum(table[name] is not None for name in ("means", "signs", "bounds"))
    passes += ACTIVATED * (call.get("other") is not None) + NORM * (call.get("eps") is not None)
    parts: list[Part] = [(ELEMENTWISE, passes * elements)]
    if (matrix := table["matrix"]) is not None:
        parts += [(FP32, 2 * elements * size(matrix.shape[-1])), (ELEMENTWISE, elements)]
    if table["directions"] is not None:
        parts += [(BF16, 4 * elements * size(call.get("rank")))]
    parts += [
        (in_type, 2 * elements * size(factor.shape[0]))
        for in_type, factor in ((BF16, table["left"]), (FP32, table["right"]))
        if factor is not None
    ]
    return Work(Kind.KERNEL, summed(*parts))


@formula("starquant.panel_linear", "starquant.panel_linears")
def panel_linears(call: Call) -> Work:
    """Integer products with epilogue, branch (own state only, in bf16) and residual, of one linear or several."""
    codes, several = call.get("codes"), call.name.endswith("linears")
    names = ("weight_scale", "bias", "state_bias", "residual", "image")
    columns = [call.get(name) if several else [call.get(name)] for name in names]
    count = len(columns[0])
    parts: list[Part] = []
    for scale, *added, image in zip(*(c or [None] * count for c in columns), strict=True):
        parts += integer_product(codes, scale.shape[0], *added)
        coefficients = call.get("coefficients")
        if image is not None and coefficients is not None:
            made = tokens(codes) * size(scale.shape[0])
            parts += [(BF16, 2 * made * size(coefficients.shape[-1])), (ELEMENTWISE, made)]
    return Work(Kind.KERNEL, summed(*parts))


@formula("starquant.attention")
def attention(call: Call) -> Work:
    """As torch's, with scores in cache."""
    query, key = call.get("q"), call.get("k")
    scores = tokens(query) * size(key.shape[-2])
    products = (unit(query.dtype), 4 * scores * size(query.shape[-1]))
    return Work(Kind.KERNEL, summed(products, (ELEMENTWISE, sympy.Mul(SOFTMAX, scores))))


@formula("starquant.rotary")
def rotary(call: Call) -> Work:
    """Two products and a sum an element."""
    return Work(Kind.KERNEL, {ELEMENTWISE: 3 * call.elements})
