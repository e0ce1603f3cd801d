"""Formulas against counts that are certain: torch's own counter, and numbers worked out by hand."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from starquant_fx import operators
from starquant_fx.cost.calls import operator_name
from starquant_fx.cost.cpu_operators import TABLES
from starquant_fx.cost.graph import cost_of
from starquant_fx.cost.shapes import Shape, at
from starquant_fx.cost.units import BF16, ELEMENTWISE, FP32, INT8, UNITS
from starquant_fx.cost.work import FORMULAS
from starquant_fx.kernels import cpu
from tests.cost.costed import small, work
from tests.small_models import model
from tests.small_programs import captured

bf16, int8, uint8, fp32 = torch.bfloat16, torch.int8, torch.uint8, torch.float32


@pytest.mark.parametrize("kind", ["llada", "dream", "odd"])
@pytest.mark.parametrize("shape", [(1, 5), (3, 8)])
def test_products_are_those_of_torchs_flop_counter(kind: str, shape: tuple[int, int]) -> None:
    program = captured(kind, calibrated=False)
    counted = cost_of(program.module)
    products = sum(at(counted.operations(unit), Shape(*shape)) for unit in (BF16, FP32))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(kind)(torch.zeros(shape, dtype=torch.long))
    assert products == counter.get_total_flops()


def test_every_operator_of_programs_and_of_the_cpu_target_has_a_formula() -> None:
    named = {f"starquant.{name}" for name in (*operators.names(), *cpu.OPERATORS)}
    assert named - set(FORMULAS) == set()
    assert TABLES == cpu.TABLES


def test_an_unknown_operator_is_counted_by_elements_and_named() -> None:
    graph = fx.Graph()
    with FakeTensorMode():
        value = torch.empty(2, 3)
    x = graph.placeholder("input_ids")
    y = graph.call_function(torch.ops.aten.erfinv.default, (x,))
    z = graph.call_function(operator.getitem, (y, 0))
    graph.output(z)
    for node, held in ((x, value), (y, value), (z, value[0])):
        node.meta["val"] = held
    found = cost_of(fx.GraphModule({}, graph))
    assert found.estimated == ("aten.erfinv",)
    assert found.operations(ELEMENTWISE) == 12
    assert found.launches(fused=True) == 1
    assert found.moved(fused=False) == 2 * 6 * 4


@pytest.mark.parametrize(
    ("structure", "factors", "products"),
    [
        ("dense", [(64, 64, fp32)], 2 * 64),
        ("kronecker", [(16, 16, fp32), (4, 4, fp32)], 2 * (16 + 4)),
        ("block", [(8, 8, 8, fp32)], 2 * 8),
        ("hadamard", [(64, fp32), (16, 16, fp32), (4, 4, fp32)], 2 * (16 + 4)),
    ],
)
def test_a_basis_multiplies_each_element_by_its_factors(
    structure: str, factors: list[object], products: int
) -> None:
    found = work("rotate", (5, 64), x=(5, 64, bf16), factors=factors, structure=structure)
    assert found.operations[BF16] == 5 * 64 * products


def test_a_tile_of_a_linear_by_hand() -> None:
    arguments = {
        "codes": (3, 5, 256, int8),
        "scale": (3, 5, 1, fp32),
        "packed": (128, 128, uint8),
        "weight_scale": (128, fp32),
        "state_bias": (2, 128, fp32),
        "coefficients": (3, 5, 32, bf16),
        "image": (32, 128, bf16),
    }
    found = work("tile_linear", (3, 5, 64), **arguments, swiglu=True)
    assert found.operations[INT8] == 2 * 15 * 256 * 128
    assert found.operations[BF16] == 2 * 15 * 32 * 128
    assert found.operations[ELEMENTWISE] == 15 * 128 * (4 + 1) + 15 * 128 + 2 * 15 * 64
    plain = work("tile_linear", (3, 5, 128), **{**arguments, "coefficients": None}, swiglu=False)
    assert plain.operations == {INT8: 2 * 15 * 256 * 128, ELEMENTWISE: 15 * 128 * 5}


def test_tiles_of_a_site_by_hand() -> None:
    prepared = work(
        "tile_prepare",
        (5, 64),
        x=(5, 64, bf16),
        eps=1e-5,
        matrix=(4, 16, 16, bf16),
        shift=(2, 64, fp32),
        directions=(2, 64, 8, bf16),
        reduce=(2, 64, 8, bf16),
        start=(2, 8, fp32),
    )
    assert prepared.operations[BF16] == 5 * 64 * (2 * 16 + 2 * 16 + 2 * 16)
    assert prepared.operations[ELEMENTWISE] == 5 * 64 * (4 + 1)
    bare = work("tile_prepare", (5, 64), x=(5, 64, bf16))
    assert bare.operations == {}
    assert (bare.launches, bare.scratch) == (1, None)
    assert prepared.launches == 2
    assert prepared.reads == {"x": 2 * 5 * 64 * 2}  # by both kernels
    assert prepared.scratch is not None
    assert prepared.scratch.tokens == 5
    # One share of the channels: 16 coefficients and a sum of squares a token, written and read in float32.
    assert prepared.scratch.of(90, 5) == (2 * 4 * 5 * 17, 0)
    site = work(
        "tile_site",
        (5, 64),
        x=(5, 64, bf16),
        factors=[(16, 16, bf16), (4, 4, bf16)],
        structure="kronecker",
        bounds=[60, 62, 62, 64],
    )
    assert site.operations == {BF16: 5 * 64 * 2 * 20, ELEMENTWISE: 5 * 64 * (6 + 1)}


def test_tiled_heads_by_hand() -> None:
    found = work("tile_greedy_int8", (3,), codes=(3, 64, int8), weight_scale=(100, fp32))
    assert found.operations == {INT8: 2 * 3 * 64 * 100, ELEMENTWISE: 8 * 300}
    found = work("tile_greedy", (3,), x=(3, 64, bf16), weight=(100, 64, bf16))
    assert found.operations == {BF16: 2 * 3 * 64 * 100, ELEMENTWISE: 4 * 300}


def test_what_kernels_leave_for_each_other_depends_on_chip_and_tokens() -> None:
    x, branch = (1, 4096, bf16), (2, 4096, 16, bf16)
    shared = work("tile_prepare", (1, 4096), x=x, reduce=branch, directions=branch).scratch
    assert shared is not None
    # 132 multiprocessors take two programs each: tiles of 64 tokens, the channels in 8, 4 and 1 shares.
    for count, shares in ((1024, 8), (4096, 4), (16384, 1)):
        assert shared.of(90, count) == (2 * 4 * shares * count * 32, 0)
    sides = {"codes": (1, 4096, int8), "packed": (4096, 2048, uint8), "weight_scale": (4096, fp32)}
    split = work("tile_linear", (1, 4096), **sides, weight_bits=4).scratch
    assert split is not None
    size, more = split.of(90, 32)
    parts, rest = divmod(size, 2 * 4 * 32 * 4096)
    assert parts > 1
    assert (rest, more) == (0, 1)
    assert split.of(90, 4096) == (0, 0)


@pytest.mark.parametrize("masked", [False, True])
def test_the_triton_target_has_a_formula_for_all_it_calls(masked: bool) -> None:
    recipe = "star+embed8-w4a4[role:head=w8a8]"
    found = small(recipe, "triton", masked, "LLaDA-8B").quantized
    reference = small(recipe, "reference", masked, "LLaDA-8B").quantized
    called = {node.operator for node in found.nodes}
    assert {"starquant.tile_prepare", "starquant.tile_site", "starquant.tile_linear"} <= called
    assert found.estimated == ()
    assert found.operations(INT8) == reference.operations(INT8)
    assert found.launches(fused=True) < reference.launches(fused=True)
    roles = {node.place.role for node in found.nodes if node.operator == "starquant.tile_linear"}
    assert roles == {"q+k+v", "o", "gate+up", "down", "head"}
    assert all(n.place.site for n in found.nodes if n.operator == "starquant.tile_prepare")


def test_the_cpu_target_and_the_reference_have_the_same_integer_products() -> None:
    if cpu.unavailable() is not None:
        pytest.skip("no CPU kernels here")
    reference, lowered = small().quantized, small(target="cpu").quantized
    assert reference.operations(INT8) == lowered.operations(INT8)
    assert reference.launches(False) > 2 * lowered.launches(False)
    assert lowered.estimated == reference.estimated == ()


def test_names_of_operators() -> None:
    def double(x: Tensor) -> Tensor:
        return F.silu(x)

    assert operator_name(torch.ops.aten.add.Tensor) == "aten.add"
    assert operator_name(operator.getitem) == "python.getitem"
    assert operator_name(double) == "python.double"
    assert set(small().bf16.nodes[0].operations) <= set(UNITS)
