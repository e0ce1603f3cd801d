"""Makes the ``starquant::`` nodes of a translated model nodes of ONNX's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from starquant_fx.errors import LoweringError
from starquant_fx.lowering.onnx import states
from starquant_fx.lowering.onnx.context import Context
from starquant_fx.lowering.onnx.emit import Emit
from starquant_fx.lowering.onnx.sites import (
    Addends,
    Flavour,
    Quantized,
    by_output,
    dequantized_weight,
    grid,
    no_codes,
    transformed,
    weight_of,
)
from starquant_fx.lowering.onnx.weights import Weights
from starquant_fx.operators import NAMESPACE

Form = Callable[[Context, ir.Node], list[ir.Value]]
PLAIN: dict[str, Form] = {
    form.__name__: form
    for form in (
        *(states.token_state, states.ratio_state, states.center, states.rotate, states.gate),
        *(states.compensate, states.compensate_by_state, states.add_state_bias),
        *(states.split_low_rank, states.add_low_rank, states.greedy),
    )
}
"""Operators that are the same in all flavours."""


def lower(model: ir.Model, weights: Weights, flavour: Flavour) -> None:
    """Rewrites a model in place.

    Args:
        model: What ``translate`` returned.
        weights: Values of its initializers.
        flavour: How quantized linears are written.

    Raises:
        LoweringError: An operator has no form.
    """
    _Lowering(Context(Emit(model.graph), weights), flavour).run(model)
    common.RemoveUnusedNodesPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    model.opset_imports.pop(NAMESPACE, None)


class _Lowering:
    def __init__(self, context: Context, flavour: Flavour) -> None:
        self._c = context
        self._flavour = flavour
        self._quantized: dict[ir.Value, Quantized] = {}

    def run(self, model: ir.Model) -> None:
        for node in list(model.graph):
            if node.graph is None:  # was made part of another one's form
                continue
            if node.domain == NAMESPACE:
                self._c.emit.at(node, str(node.name))
                self._rewrite(node)
            elif node.op_type == "Transpose":
                self._turn(node)
            elif node.op_type == "Gather":
                self._look_up(node)

    def _rewrite(self, node: ir.Node) -> None:
        kind = node.op_type
        if kind in ("transform_quantize", "quantize_activation"):
            self._quantize(node)  # stays until its readers are done
            return
        if kind == "quantized_linear":
            node, results = self._linear(node)
        elif kind == "dequantize_activation":
            results = [self._flavour.dequantized(self._c, self._codes(node))]
        elif kind == "dequantize_weight":
            results = [self._weight(node)]
        elif kind == "center" and _only_branch_reads(node):
            return  # a part of what reads it
        elif kind in PLAIN:
            results = PLAIN[kind](self._c, node)
        else:
            raise LoweringError(
                "an operator has no ONNX form",
                where=str(node.name),
                expected=", ".join(sorted(PLAIN)),
                got=kind,
                hint="the recipe's graph must be fused: use its last pass, fuse",
            )
        _replace(node, results)

    def _quantize(self, node: ir.Node) -> None:
        x, *_, clip = self._c.inputs(node, 6 if node.op_type == "transform_quantize" else 2)
        features, order = self._c.features(x), None
        if node.op_type == "transform_quantize":
            x, order = transformed(self._c, node, features, self._only_linears_read(node))
        found = self._flavour.quantized(self._c, x, features, grid(self._c, node, x, clip))
        self._quantized[node.outputs[0]] = dataclasses.replace(found, order=order)

    def _only_linears_read(self, node: ir.Node) -> bool:
        """Whether all that reads a site's codes are linears with one scale for all channels."""
        readers = [use.node for use in node.outputs[0].uses()]
        return all(
            one.op_type == "quantized_linear" and len(self._c.shape(self._c.inputs(one, 5)[4])) == 1
            for one in readers
        )

    def _codes(self, node: ir.Node) -> Quantized:
        codes = node.inputs[0]
        if codes is None or codes not in self._quantized:
            raise no_codes(node)
        return self._quantized[codes]

    def _linear(self, node: ir.Node) -> tuple[ir.Node, list[ir.Value]]:
        """A linear, with the branch that follows it; and the last node of both."""
        c, q = self._c, self._codes(node)
        _, _, _, packed, scale, column_sum, bias, state, state_bias = c.inputs(node, 9)
        bits = c.integer(node, "weight_bits")
        weight = weight_of(c, packed, scale, column_sum, bits, q.features, q.order)
        more = Addends(bias, state, state_bias)
        c.emit.scope = weight.name
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) == 1 and readers[0].op_type == "add_low_rank":
            node = readers[0]
            _, _, more.kept, more.image = c.inputs(node, 4)
            c.emit.anchor = node
        return node, [self._flavour.linear(c, q, weight, more)]

    def _weight(self, node: ir.Node) -> ir.Value:
        """A restored weight [n, d].

        Where only weights are quantized its transpose becomes the form that runtimes fuse with the product; elsewhere
        they must not, as onnxruntime then quantizes the activations, too: it is stored as it is.
        """
        c = self._c
        packed, scale = c.inputs(node, 2)
        features, bits = c.integer(node, "features"), c.integer(node, "bits")
        if not self._flavour.weights_only:
            return by_output(c, packed, scale, bits, features)
        weight = weight_of(c, packed, scale, None, bits, features)
        turned = dequantized_weight(c, weight, features)
        for use in list(node.outputs[0].uses()):
            if use.node.op_type == "Transpose":
                _replace(use.node, [turned])
        return c.emit("Transpose", turned, perm=[1, 0])

    def _look_up(self, node: ir.Node) -> None:
        """An embedding stays in 16 bits where it is so; what is looked up in it becomes float32."""
        c, table = self._c, node.inputs[0]
        if table is None or not table.is_initializer() or len(table.uses()) != 1:
            return
        if c.weights.keep(table):
            c.emit.at(node, str(node.name))
            rows = c.emit("Gather", table, node.inputs[1], axis=node.attributes.get_int("axis", 0))
            _replace(node, [c.emit.cast(rows, ir.DataType.FLOAT)])

    def _turn(self, node: ir.Node) -> None:
        """The transpose of an initializer that nothing else reads, stored as it is read."""
        (x,) = node.inputs
        if x is None or not x.is_initializer() or len(x.uses()) != 1 or x.name is None:
            return
        if list(node.attributes["perm"].as_ints()) != [1, 0] or not self._c.weights.has(x.name):
            return
        name, shape = f"{x.name}_transposed", self._c.shape(x)[::-1]
        _replace(node, [self._c.derived(x, name, lambda t: t.T, shape)])


def _only_branch_reads(node: ir.Node) -> bool:
    """Whether all that reads a centred value is the split of a branch, by the same states."""
    uses = list(node.outputs[0].uses())
    return len(uses) == 1 and uses[0].node.op_type == "split_low_rank" and uses[0].idx == 0


def _replace(node: ir.Node, results: list[ir.Value]) -> None:
    """Lets others read these values instead of a node's, and removes the node."""
    graph = node.graph
    assert graph is not None
    for old, new in zip(node.outputs, results, strict=True):
        if new.shape is None:
            new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
