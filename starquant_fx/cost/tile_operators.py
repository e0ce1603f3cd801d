"""Formulas of the triton target's operators.

Products with tables of states run over all states at once, as tensor cores take them. Weights and activations are
read once, whatever the tiles: what is read again comes from the cache.
"""

from __future__ import annotations

from starquant_fx.cost.aten import NORM
from starquant_fx.cost.calls import ZERO, Call, numel, size, stored, tokens, unit
from starquant_fx.cost.cpu_operators import ACTIVATED
from starquant_fx.cost.reference_operators import (
    EPILOGUE,
    QUANTIZE,
    Part,
    integer_product,
    rotation,
)
from starquant_fx.cost.tile_scratch import head_choices, prepared, split_product
from starquant_fx.cost.units import ELEMENTWISE
from starquant_fx.cost.work import Kind, Work, formula, summed


@formula("starquant.tile_prepare")
def tile_prepare(call: Call) -> Work:
    """Norm, TAC 2 T d g, coefficients 2 T d S k, and what the branch takes away, 2 T d S k.

    Two kernels with a norm or a branch: sums over a token's channels, then tiles of tokens x channels. Both read ``x``.
    """
    x, elements = call.get("x"), numel(call.get("x"))
    passes = NORM * (call.get("eps") is not None) + (call.get("shift") is not None)
    parts: list[Part] = [(ELEMENTWISE, passes * elements)]
    if (matrix := call.get("matrix")) is not None:
        parts.append((unit(x.dtype), 2 * elements * size(matrix.shape[-1])))
    columns = ZERO
    for table in (call.get("reduce"), call.get("directions")):
        if table is not None:
            columns = size(table.shape[0]) * size(table.shape[-1])
            parts.append((unit(x.dtype), 2 * elements * columns))
    norm = call.get("eps") is not None
    if not norm and not columns:
        return Work(Kind.KERNEL, summed(*parts))
    return Work(
        Kind.KERNEL,
        summed(*parts),
        reads={"x": 2 * stored(x)},
        launches=2,
        scratch=prepared(x, 1 if matrix is None else int(size(matrix.shape[-1])), columns, norm),
    )


@formula("starquant.tile_site")
def tile_site(call: Call) -> Work:
    """Norm, shift, basis, gates and quantizer in one pass."""
    x, elements = call.get("x"), numel(call.get("x"))
    passes = QUANTIZE + (call.get("shift") is not None) + bool(call.get("bounds"))
    passes += NORM * (call.get("eps") is not None)
    basis = rotation(x, call.get("factors") or (), call.get("structure"))
    return Work(Kind.KERNEL, summed((ELEMENTWISE, passes * elements), *basis))


@formula("starquant.tile_linear")
def tile_linear(call: Call) -> Work:
    """Integer products with epilogue, branch 2 T S k n, residual and SwiGLU; parts of them where channels are split."""
    codes, outputs = call.get("codes"), call.get("weight_scale").shape[0]
    made = tokens(codes) * size(outputs)
    added = (call.get(name) for name in ("bias", "state_bias", "residual"))
    parts = integer_product(codes, outputs, *added)
    coefficients = call.get("coefficients")
    if coefficients is not None and call.get("image") is not None:
        columns = size(coefficients.shape[-1])
        parts += [(unit(coefficients.dtype), 2 * made * columns), (ELEMENTWISE, made)]
    if call.get("swiglu"):
        parts.append((ELEMENTWISE, ACTIVATED * made / 2))
    bits = 4 if (call.get("weight_bits") or 8) <= 4 else 8
    grouped = call.get("weight_scale").dim() == 2
    scratch = split_product(codes, int(size(outputs)), bits, grouped)
    return Work(Kind.KERNEL, summed(*parts), scratch=scratch)


@formula("starquant.tile_greedy", "starquant.tile_greedy_int8")
def tile_greedy(call: Call) -> Work:
    """The head and the largest of its logits, none of which is stored; four operations a logit beside the head's."""
    whole = call.name.endswith("int8")
    x = call.get("codes" if whole else "x")
    vocab = int(size(call.get("weight_scale" if whole else "weight").shape[0]))
    made = tokens(x) * vocab
    products = (unit(x.dtype), 2 * made * size(x.shape[-1]))
    counts = summed(products, (ELEMENTWISE, (EPILOGUE * whole + 4) * made))
    return Work(Kind.KERNEL, counts, launches=2, scratch=head_choices(x, vocab))
