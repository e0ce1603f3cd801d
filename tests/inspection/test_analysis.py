"""Critical path, loss of precision, what stays in floats, and the cut between, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from starquant_fx.cost.chips import chip_named
from starquant_fx.errors import InputError
from starquant_fx.inspection.analysis import (
    boundaries,
    critical_path,
    high_precision,
    precision_path,
)
from starquant_fx.inspection.kinds import Kind, kinds
from starquant_fx.inspection.reading import SHORT
from starquant_fx.inspection.recording import Node, Source, Stage
from starquant_fx.inspection.sizes import constant_bytes, symbols, value_bytes
from tests.inspection.small import recording


def test_critical_path_takes_the_longer_of_two_branches() -> None:
    nodes = [
        Node("a", "input"),
        Node("short", "aten.add", sources=(Source("a", 0, "x"),), flops=1.0, bytes=4.3e9),
        Node("long", "aten.add", sources=(Source("a", 0, "x"),), flops=1.0, bytes=8.6e9),
        Node(
            "end",
            "aten.add",
            sources=(Source("short", 0, "x"), Source("long", 0, "y")),
            bytes=4.3e9,
        ),
    ]
    found = critical_path(Stage("s", "s", "", 0.0, (), {n.name: n for n in nodes}))
    assert [step.node.name for step in found.steps] == ["a", "long", "end"]
    assert found.seconds == pytest.approx(3e-3)  # 12.9 GB at 4.3 TB/s
    assert found.total == pytest.approx(4e-3)
    assert found.share == pytest.approx(0.75)
    assert [step.bound for step in found.steps] == ["", "memory", "memory"]
    assert found.chip == "H200"


def test_critical_path_counts_products_at_the_rate_of_their_type() -> None:
    linear = Node("l", "aten.linear", outputs=("bf16[4]",), flops=790e12)
    quantized = Node("q", "starquant.quantized_linear", outputs=("bf16[4]",), flops=790e12)
    chip = chip_named("H200")
    for node, unit in (
        (linear, "bf16"),
        (dataclasses.replace(linear, outputs=("f32[4]",)), "fp32"),
        (dataclasses.replace(quantized, bits="w4a4"), "int8"),
        (dataclasses.replace(quantized, bits="w4"), "bf16"),
        (dataclasses.replace(linear, operator="aten.mul"), "elementwise"),
    ):
        found = critical_path(Stage("s", "s", "", 0.0, (), {node.name: node}))
        assert found.seconds == pytest.approx(790e12 / chip.rates[unit].value), unit
        assert found.steps[0].bound == "compute"


def test_critical_path_refuses_an_unknown_chip() -> None:
    with pytest.raises(InputError, match="unknown chip"):
        critical_path(recording().last, "H2000")


def test_precision_path_meets_every_site_once_in_order_and_adds_shares_up() -> None:
    found = precision_path(recording())
    assert (found.start, found.end) == ("ids", "output")
    names = [loss.site.name.removeprefix("model.") for loss in found.losses]
    assert names == [
        "layers.0.q_proj",
        "layers.0.o_proj",
        "layers.1.q_proj",
        "layers.1.o_proj",
        "head_proj",
    ]
    assert [loss.share for loss in found.losses] == pytest.approx([0.1, 0.2, 0.3, 0.4, None])
    assert [loss.running for loss in found.losses] == pytest.approx([0.1, 0.3, 0.6, 1.0, None])
    assert (found.quantized, found.measured) == (4, 4)


def test_precision_path_is_a_path() -> None:
    one = recording()
    found = precision_path(one)
    for before, name in zip(found.nodes, found.nodes[1:], strict=False):
        assert before in [s.node for s in one.last.nodes[name].sources]


def test_precision_path_without_errors_tells_bits_only() -> None:
    found = precision_path(recording(measured=False))
    assert [loss.bits for loss in found.losses] == ["w4a4"] * 4 + [""]
    assert all(loss.share is loss.error is None for loss in found.losses)
    assert (found.quantized, found.measured) == (4, 0)


def test_precision_path_before_quantizers_loses_nothing() -> None:
    one = recording()
    found = precision_path(one, one.stage("capture"))
    assert len(found.losses) == 5
    assert (found.quantized, found.measured) == (0, 0)


def test_precision_path_between_two_nodes() -> None:
    found = precision_path(recording(), start="sum_0", end="attention_1")
    assert found.nodes == ("sum_0", "norm_1", "codes_q_proj_1", *found.nodes[3:])
    assert [loss.site.name for loss in found.losses] == ["model.layers.1.q_proj"]
    assert found.losses[0].running == 1.0


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ({"start": "sum_9"}, "did you mean 'sum_"),
        ({"end": "nowhere-at-all"}, "other stages have other nodes"),
        ({"start": "sum_1", "end": "sum_0"}, "exchange them"),
    ],
)
def test_precision_path_refuses_ends_that_do_not_fit(ends: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as refused:
        precision_path(recording(), **ends)
    assert text in str(refused.value)


def test_high_precision_groups_by_reason_with_shares() -> None:
    found = high_precision(recording())
    groups = {group.what: group for group in found.groups}
    assert list(groups) == ["attention", "head", "rotary", "elementwise", "norm", "embedding"]
    assert groups["head"].reason == "ignored by the recipe"
    assert groups["head"].sites == ("model.head_proj",)
    assert groups["attention"].operators == (("aten.scaled_dot_product_attention", 2),)
    assert groups["attention"].flops_share == pytest.approx(8192 / found.flops)
    low = sum(n.flops or 0 for n in recording().last.nodes.values() if n.bits)
    assert sum(g.flops for g in found.groups) == pytest.approx(found.flops - low)


def test_high_precision_before_quantizers_says_that_linears_come_later() -> None:
    one = recording()
    groups = {g.what: g.reason for g in high_precision(one, one.stage("assign-roles")).groups}
    assert groups["q"] == "quantized by a later pass"
    assert groups["head"] == "ignored by the recipe"


def test_boundaries_count_edges_and_bytes_by_role() -> None:
    found = {(c.group, c.direction): c for c in boundaries(recording())}
    into, back = found["q+k+v", "floats -> codes"], found["q+k+v", "codes -> floats"]
    assert (len(into.edges), into.bits) == (2, "a4")
    assert into.bytes == 2 * 16 * 8 * 2  # bf16[1, 16, 8] in two layers
    assert (len(back.edges), back.bits) == (6, "a4")
    assert back.bytes == 6 * (16 * 8 + 16 * 4)  # codes and scales
    weights = found["o", "weights -> floats"]
    assert (weights.bits, weights.bytes) == ("w4", 2 * 8 * 4)
    assert {group for group, _ in found} == {"q+k+v", "o"}


def test_boundaries_by_site_and_where_nothing_is_quantized() -> None:
    one = recording()
    sites = {c.group for c in boundaries(one, group="site")}
    assert sites == {name for name, site in one.sites.items() if site.bits}
    assert boundaries(one, one.stage("capture")) == ()
    with pytest.raises(InputError, match="grouped by 'layer'"):
        boundaries(one, group="layer")


def test_codes_of_weights_that_are_made_in_the_graph_are_weights() -> None:
    nodes = [
        Node("w", "aten.mul", outputs=("f32[4, 4]",)),
        Node(
            *("q", "starquant.quantize_weight", "", (Source("w", 0, "w"),), ("i8[4, 4]", "f32[4]")),
            bits="w4",
        ),
        Node("p", "starquant.pack", "", (Source("q", 0, "codes"),), ("u8[2, 4]",), bits="a4"),
        Node(
            *(
                "d",
                "starquant.dequantize_weight",
                "",
                (Source("p", 0, "x"), Source("q", 1, "scale")),
            ),
            outputs=("f32[4, 4]",),
            bits="w4",
        ),
    ]
    stage = Stage("s", "s", "", 0.0, (), {n.name: n for n in nodes})
    found = {c.direction: c for c in boundaries(recording(), stage)}
    assert {(c.direction, c.bits, c.bytes) for c in found.values()} == {
        ("floats -> codes", "w4", 64),
        ("weights -> floats", "w4", 8 + 16),
    }
    assert [(e.source, e.target) for e in found["weights -> floats"].edges] == [
        ("p", "d"),
        ("q", "d"),
    ]


def test_kinds_follow_a_cosine_to_the_attention() -> None:
    found = kinds(recording().last)
    assert {n for n, kind in found.items() if kind is Kind.ROTARY} == {
        "positions",
        "cos",
        "turned_0",
        "turned_1",
    }
    assert found["view_0"] is Kind.LAYOUT
    assert found["codes_q_proj_0"] is Kind.CODES


def test_a_cosine_in_the_module_of_a_norm_is_part_of_the_norm() -> None:
    nodes = [
        Node("x", "input"),
        Node("cos", "aten.cos", "model", (Source("x", 0, "x"),), flops=8.0),
        Node("mul", "aten.mul", "model", (Source("cos", 0, "x"),), flops=8.0),
        Node("norm", "aten.rms_norm", "model", (Source("mul", 0, "x"),), flops=8.0),
    ]
    found = kinds(Stage("s", "s", "", 0.0, (), {n.name: n for n in nodes}))
    assert [found[n] for n in ("cos", "mul", "norm")] == [Kind.NORM] * 3


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bf16[B, L, 8]", 2 * 3 * 8 * 2),
        ("u8[B*L, 4]", 24),
        ("f32[]", 4),
        ("i64[L + 1]", 32),
        ("f32[s0, 4]", 0),
        ("f32[__import__('os')]", 0),
        ("f32[1//0]", 0),
        ("strange[2]", 0),
        (f"u8[{'9' * 5000}]", 0),
        (f"f32[{'9' * 18}, {'9' * 18}]", 0),
        (f"f32[{', '.join(['9' * 18] * 200)}]", 0),
        ("u8[B - 5]", 0),
    ],
)
def test_bytes_of_a_value(kind: str, expected: float) -> None:
    assert value_bytes(kind, symbols("2x3")) == expected


def test_a_forward_of_endless_numbers_has_no_sizes() -> None:
    assert symbols(f"{'9' * 5000}x1") == {}
    assert symbols("1x64, or so") == {}


def test_types_have_the_sizes_that_torch_has() -> None:
    for dtype, short in SHORT.items():
        assert constant_bytes(f"{short}[2, 3]") == 6 * dtype.itemsize


def test_a_path_is_told_where_errors_are_not_finite() -> None:
    one = recording()
    for error in (math.nan, math.inf, -1.0):
        broken = dataclasses.replace(one.sites["model.layers.0.o_proj"], error=error)
        found = precision_path(dataclasses.replace(one, sites={**one.sites, broken.name: broken}))
        assert [loss.site.name for loss in found.losses][1] == broken.name
        assert all(math.isfinite(loss.share or 0.0) for loss in found.losses)
