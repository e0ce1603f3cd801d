"""Sums over graphs: symbolic against concrete, weights, roles and passes, fusion, memory."""

from __future__ import annotations

import dataclasses

import pytest
import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from starquant_fx.capture import capture
from starquant_fx.cost.chips import CHIPS, chip_named
from starquant_fx.cost.graph import GraphCost, cost_of
from starquant_fx.cost.roofline import GROUPS, peak_activations, predict, rows_by
from starquant_fx.cost.shapes import Shape, at, parse_shape
from starquant_fx.cost.units import BATCH, BF16, INT8, LENGTH, ROWS, UNITS
from starquant_fx.errors import InputError
from starquant_fx.kernels import cpu
from starquant_fx.models.weightless import fake_model
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import CONSTANTS
from starquant_fx.recipes import get_recipe
from starquant_fx.report import tensor_bytes
from tests.cost.costed import small

H200 = CHIPS["H200"]


def extrapolated(recipe: str, layers: int) -> int:
    """Weights of LLaDA-8B with so many layers, from captures of one and two: each further one adds the same."""
    one, two = (small("rtn-w4a4", model="LLaDA-8B", layers=n).quantized.weights for n in (1, 2))
    rest = small(recipe, model="LLaDA-8B", layers=1).quantized.weights
    return rest + (layers - 1) * (two - one)


@pytest.mark.parametrize("shape", [Shape(1, 7), Shape(3, 20), Shape(2, 64, 9)])
def test_symbolic_totals_are_the_sums_of_concrete_nodes(shape: Shape) -> None:
    masked = shape.rows is not None
    for graph in (small(masked_rows=masked).bf16, small(masked_rows=masked).quantized):
        for unit in UNITS:
            concrete = sum(at(n.operations.get(unit, sympy.S.Zero), shape) for n in graph.nodes)
            assert at(graph.operations(unit), shape) == concrete
        concrete = sum(at(n.weights + n.read + n.written, shape) for n in graph.nodes)
        assert at(graph.moved(fused=False), shape) == concrete
        assert graph.moved(fused=False).free_symbols <= {BATCH, LENGTH, ROWS}


def test_linears_of_llada_8b() -> None:
    one, two = (small("rtn-w4a4", model="LLaDA-8B", layers=n) for n in (1, 2))
    layer = two.quantized.operations(INT8) - one.quantized.operations(INT8)
    assert layer == 2 * (4 * 4096**2 + 3 * 4096 * 12288) * BATCH * LENGTH  # 436 MFLOP a token
    attention = 4 * 4096 * BATCH * LENGTH**2
    difference = two.bf16.operations(BF16) - one.bf16.operations(BF16)
    assert sympy.expand(difference - layer - attention) == 0


@pytest.mark.parametrize(
    ("recipe", "gigabytes"),
    [
        ("rtn-w4a4", 5.57),
        ("rtn-w4a4[role:head=w8a8]", 5.05),
        ("rtn+embed8-w4a4[role:head=w8a8]", 4.53),
    ],
)
def test_weights_of_llada_8b(recipe: str, gigabytes: float) -> None:
    assert extrapolated(recipe, 32) / 1e9 == pytest.approx(gigabytes, abs=0.012)


def test_weights_of_bf16() -> None:
    one, two = (small("rtn-w4a4", model="LLaDA-8B", layers=n).bf16.weights for n in (1, 2))
    assert (one + 31 * (two - one)) / 1e9 == pytest.approx(16.03, abs=0.005)


def test_weights_are_those_of_the_report() -> None:
    recipe = get_recipe("star+embed8-w4a4[role:head=w8a8]")
    model = fake_model("dream-tiny", layers=1)
    program = capture(model, recipe, mask_token_id=3)
    plain = cost_of(program.module).weights
    run_passes(program, recipe.passes)
    assert cost_of(program.module).weights == tensor_bytes(program.tensors(), CONSTANTS)
    assert plain == tensor_bytes(dict(model.named_parameters()), CONSTANTS)


@pytest.mark.parametrize("chip", list(CHIPS))
@pytest.mark.parametrize("compiled", [True, False])
def test_more_tokens_cost_more(chip: str, compiled: bool) -> None:
    for graph in (small().bf16, small().quantized):
        shapes = [
            Shape(1, 1),
            Shape(1, 16),
            Shape(1, 256),
            Shape(2, 256),
            Shape(2, 999),
            Shape(4, 2048),
        ]
        times = [predict(graph, CHIPS[chip], s, compiled=compiled).seconds for s in shapes]
        peaks = [peak_activations(graph, s, compiled=compiled) for s in shapes]
        assert times == sorted(times)
        assert peaks == sorted(peaks)


def test_groups_have_everything_once() -> None:
    graph, shape = small().quantized, Shape(2, 64)
    whole = predict(graph, H200, shape, compiled=True).seconds
    for group in GROUPS:
        rows = rows_by(graph, H200, shape, group, compiled=True)
        assert sum(row.seconds for row in rows) == pytest.approx(whole)
        assert sum(row.nodes for row in rows) == len(graph.nodes)
        products = sum(row.operations.get(INT8, 0.0) for row in rows)
        assert products == at(graph.operations(INT8), shape)


def test_roles_and_passes_are_named() -> None:
    graph = small().quantized
    roles = {node.place.role for node in graph.nodes}
    assert {"q", "k", "v", "o", "gate", "up", "down", "head", "attention", "embedding"} <= roles
    assert {"q+k+v site", "o site", "gate+up site", "down site"} <= roles
    passes = {node.place.by for node in graph.nodes}
    assert {"capture", "fuse", "insert-low-rank", "insert-tac", "insert-centering"} <= passes
    assert {"q", "gate", "head"} <= {node.place.role for node in small().bf16.nodes}
    if cpu.unavailable() is None:
        lowered = {node.place.role for node in small(target="cpu").quantized.nodes}
        assert {"q+k+v", "gate+up", "rotary"} <= lowered


def test_masked_rows_shrink_the_head_in_both_graphs() -> None:
    every, some = small(), small(masked_rows=True)
    for whole, part in ((every.bf16, some.bf16), (every.quantized, some.quantized)):
        assert ROWS in part.operations(BF16).free_symbols
        everything = at(whole.operations(BF16), Shape(2, 32))
        assert at(part.operations(BF16), Shape(2, 32)) == everything  # rows = all
        assert at(part.operations(BF16), Shape(2, 32, 8)) < everything
        fewer = peak_activations(part, Shape(2, 32, 8), compiled=True)
        assert fewer < peak_activations(whole, Shape(2, 32), compiled=True)


def chain() -> GraphCost:
    """``silu(x) + 1`` between two linears, by hand: [B=2, L=3, 4]."""
    graph = fx.Graph()
    with FakeTensorMode():
        wide, square = torch.empty(2, 3, 4), torch.nn.Parameter(torch.empty(4, 4))
    aten = torch.ops.aten
    x = graph.placeholder("input_ids")
    weight = graph.get_attr("weight")
    first = graph.call_function(aten.linear.default, (x, weight))
    turned = graph.call_function(aten.view.default, (first, [2, 3, 4]))
    activated = graph.call_function(aten.silu.default, (turned,))
    added = graph.call_function(aten.add.Tensor, (activated, 1))
    second = graph.call_function(aten.linear.default, (added, weight))
    last = graph.call_function(aten.add.Tensor, (second, added))
    graph.output(last)
    for node in (x, first, turned, activated, added, second, last):
        node.meta["val"] = wide
    weight.meta["val"] = square
    return cost_of(fx.GraphModule({"weight": square}, graph))


def test_elementwise_neighbours_are_one_kernel() -> None:
    found, one = chain(), 2 * 3 * 4 * 4
    assert (found.launches(False), found.launches(True)) == (5, 4)
    silu, add = (n for n in found.nodes if n.kernel == found.nodes[1].kernel)
    assert (silu.operator, add.operator) == ("aten.silu", "aten.add")
    assert (silu.fused_read, silu.fused_written, add.fused_read, add.fused_written) == (
        one,
        0,
        0,
        one,
    )
    assert found.moved(False) - found.moved(True) == 2 * one
    # x and the first product; then the sum, which the last call reads too, beside the second product and its result.
    assert peak_activations(found, Shape(2, 3), compiled=False) == 3 * one
    assert peak_activations(found, Shape(2, 3), compiled=True) == 3 * one


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown chip") as refused:
        chip_named("H20")
    assert "--rate bf16=" in str(refused.value), "another chip is described, not guessed"
    with pytest.raises(InputError, match="unknown rate"):
        chip_named("A40", {"int4": 1.0})
    with pytest.raises(InputError, match="no shape"):
        parse_shape("1024")
    with pytest.raises(InputError, match="no model") as refused:
        fake_model("LLaDA-7B")
    assert "llada-8b" in str(refused.value)
    assert chip_named("h200", {"int8": 1500.0}).rates[INT8].value == 1500e12


def test_every_figure_of_a_chip_has_its_source() -> None:
    for chip in CHIPS.values():
        for rate in (*chip.rates.values(), chip.bandwidth, chip.launch, chip.own_launch):
            assert rate.value > 0
            assert len(rate.source) > 10
        assert set(chip.rates) == set(UNITS)


def test_kernels_of_one_call_are_launched_and_what_they_exchange_is_moved() -> None:
    graph = small("star-w4a4", "triton", False, "LLaDA-8B").quantized
    few, many = (predict(graph, H200, Shape(1, n), compiled=True) for n in (32, 4096))
    calls = len({node.kernel for node in graph.nodes})
    prepares = sum(n.operator == "starquant.tile_prepare" for n in graph.nodes)
    assert many.launches == graph.launches(fused=True) == calls + prepares
    assert (
        few.launches > many.launches
    )  # products whose channels are split have a kernel that adds the parts up
    bare = [dataclasses.replace(node, scratch=None) for node in graph.nodes]
    without = predict(
        dataclasses.replace(graph, nodes=tuple(bare)), H200, Shape(1, 32), compiled=True
    )
    assert few.seconds > without.seconds
