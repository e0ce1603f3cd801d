"""Formulas of torch's operators in captured graphs."""

from __future__ import annotations

import sympy

from starquant_fx.cost.calls import ZERO, Call, numel, size, tokens, unit
from starquant_fx.cost.units import ELEMENTWISE
from starquant_fx.cost.work import Kind, Work, formula, summed

NORM, SOFTMAX = 4, 5
"""Operations an element: square, sum, scale, gain; and scale, maximum, exponential, sum, division."""


def _named(*names: str) -> tuple[str, ...]:
    return tuple(f"aten.{name}" for name in names)


@formula(
    *_named("view", "reshape", "transpose", "permute", "t", "unsqueeze", "squeeze", "expand"),
    *_named("split", "slice", "select", "chunk", "flatten", "unflatten", "alias", "detach"),
    *_named(
        "sym_size", "_assert_tensor_metadata", "split_with_sizes", "_unsafe_view", "lift_fresh_copy"
    ),
    *("python.getitem", "python._operator.getitem"),
)
def view(call: Call) -> Work:
    """Nothing is computed or moved."""
    return Work(Kind.VIEW)


@formula(
    *_named("add", "sub", "mul", "div", "neg", "silu", "gelu", "relu", "tanh", "cos", "sin", "pow"),
    *_named("reciprocal", "rsqrt", "exp", "where", "eq", "ne", "lt", "gt", "le", "ge", "clamp"),
    *_named("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not"),
    *_named("rsub", "abs", "sigmoid", "maximum", "minimum", "masked_fill", "cumsum", "sqrt"),
)
def elementwise(call: Call) -> Work:
    """One operation for each element of the result."""
    return Work(Kind.ELEMENTWISE, {ELEMENTWISE: call.elements})


@formula(
    *_named("_to_copy", "to", "clone", "contiguous", "copy", "cat", "stack", "arange", "full"),
    *_named("zeros", "ones", "zeros_like", "ones_like", "full_like", "scalar_tensor", "dropout"),
)
def move(call: Call) -> Work:
    """Bytes move and nothing is computed."""
    return Work(Kind.ELEMENTWISE)


@formula(*_named("rms_norm", "layer_norm", "native_layer_norm"))
def norm(call: Call) -> Work:
    """A reduction over channels and a product; a compiler fuses it with what stands around it."""
    return Work(Kind.ELEMENTWISE, {ELEMENTWISE: NORM * call.elements})


@formula(*_named("_softmax", "softmax"))
def softmax(call: Call) -> Work:
    """Of stored scores."""
    return Work(Kind.ELEMENTWISE, {ELEMENTWISE: SOFTMAX * call.elements})


@formula(*_named("sum", "mean", "amax", "amin", "any", "all", "max", "min", "argmax"))
def reduction(call: Call) -> Work:
    """One operation for each element that is read."""
    x = call.get("self")
    return Work(Kind.ELEMENTWISE, {ELEMENTWISE: numel(x)})


@formula(*_named("embedding"))
def embedding(call: Call) -> Work:
    """Of the table, only the rows of the tokens are read."""
    weight = call.get("weight")
    rows = numel(call.get("indices")) * size(weight.shape[1]) * weight.element_size()
    return Work(Kind.ELEMENTWISE, reads={"weight": rows})


@formula(*_named("index_select", "index", "gather"))
def gathered(call: Call) -> Work:
    """Only what is taken is read."""
    taken = call.elements * call.results[0].element_size()
    return Work(Kind.ELEMENTWISE, reads={"self": taken})


@formula(*_named("linear"))
def linear(call: Call) -> Work:
    """``x W^T + b``: 2 T d n."""
    x, weight, bias = (call.get(name) for name in ("input", "weight", "bias"))
    outputs, features = map(size, weight.shape)
    products = (unit(x.dtype), 2 * tokens(x) * features * outputs)
    added = (ELEMENTWISE, ZERO if bias is None else tokens(x) * outputs)
    return Work(Kind.KERNEL, summed(products, added))


@formula(*_named("mm", "bmm", "matmul"))
def product(call: Call) -> Work:
    """2 operations for each element of the result and each channel summed."""
    x = call.get("self")
    return Work(Kind.KERNEL, summed((unit(x.dtype), 2 * call.elements * size(x.shape[-1]))))


@formula(*_named("addmm", "baddbmm"))
def added_product(call: Call) -> Work:
    """A product and a sum."""
    x = call.get("mat1") if call.get("mat1") is not None else call.get("batch1")
    products = (unit(x.dtype), 2 * call.elements * size(x.shape[-1]))
    return Work(Kind.KERNEL, summed(products, (ELEMENTWISE, call.elements)))


@formula(*_named("scaled_dot_product_attention"))
def attention(call: Call) -> Work:
    """``softmax(q k^T) v`` in one kernel that keeps no scores: 4 B H L M D, and the softmax of B H L M scores."""
    query, key, value = (call.get(name) for name in ("query", "key", "value"))
    scores = tokens(query) * size(key.shape[-2])
    widths = size(query.shape[-1]) + size(value.shape[-1])
    products = (unit(query.dtype), 2 * scores * widths)
    return Work(Kind.KERNEL, summed(products, (ELEMENTWISE, sympy.Mul(SOFTMAX, scores))))
