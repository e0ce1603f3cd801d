"""Quantized sites and linears in each flavour, against the reference, over open-ended inputs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from starquant_fx.errors import LoweringError
from starquant_fx.kernels import reference
from starquant_fx.lowering.onnx.flavours import spread
from starquant_fx.operators import op
from tests.lowering.to_onnx.small import Calls, exported, run, run_by_definition

FEATURES, OUTPUTS = 16, 6
KERNELS = {"qdq": ["MatMul"], "integer": ["MatMulInteger"], "nbits": ["MatMul"]}


def site(bits: int, weight_bits: int, symmetric: bool, clipped: bool, plain: bool) -> Calls:
    """A quantizer and a linear; unless ``plain`` with gates, a bias and one of the state."""
    source = torch.Generator().manual_seed(bits * 8 + weight_bits)
    codes, scale = reference.quantize_weight(
        torch.randn(OUTPUTS, FEATURES, generator=source), weight_bits, None
    )
    tensors = {
        "packed": reference.pack(codes, weight_bits),
        "weight_scale": scale,
        "column_sum": codes.sum(-1, dtype=torch.int32),
        "clip": torch.tensor([0.8, 0.6]),
        "bias": torch.randn(OUTPUTS, generator=source),
        "state_bias": torch.randn(2, OUTPUTS, generator=source),
    }

    def call(x: Tensor, state: Tensor, **held: Tensor) -> Tensor:
        own = held["clip"] if clipped else None
        if plain:
            quantized = op("quantize_activation")(x, bits, symmetric, own)
        else:
            gates: Any = (12, [12, 14, 14, 16], None, None)
            quantized = op("transform_quantize")(
                x, state, None, [], "dense", *gates, bits, symmetric, own
            )
        added = (None, None, None) if plain else (held["bias"], state, held["state_bias"])
        weight = (held["packed"], held["weight_scale"], held["column_sum"], weight_bits)
        return op("quantized_linear")(*quantized, *weight, *added, torch.float32)

    return Calls(call, **tensors)


def inputs(batch: int, length: int, seed: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, FEATURES, generator=source)
    x[..., seed % FEATURES] *= 20  # an outlier channel
    return {"x": x, "state": torch.randint(0, 2, (batch, length), generator=source)}


def close(found: Tensor, wanted: Tensor) -> bool:
    """All results agree, but for those of tokens where one code lies on a rounding tie."""
    return bool(((found - wanted).abs() <= 1e-4 * wanted.abs().max()).float().mean() > 0.95)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("weight_bits", "bits"), [(4, 4), (8, 8), (4, 8), (8, 4), (3, 6), (2, 2)])
@pytest.mark.parametrize("flavour", ["qdq", "integer"])
def test_a_site_computes_what_the_reference_does(
    flavour: str, weight_bits: int, bits: int, symmetric: bool, plain: bool, tmp_path: Path
) -> None:
    module, given_inputs = site(bits, weight_bits, symmetric, not plain, plain), inputs(2, 5, 1)
    model = exported(module, given_inputs, ["y"], flavour)
    products = [n.op_type for n in model.graph if n.op_type in ("MatMul", "MatMulInteger")]
    assert KERNELS[flavour][0] in products
    wanted = module(*given_inputs.values())
    assert close(run(model, given_inputs, tmp_path)[0], wanted)
    assert close(run_by_definition(model, given_inputs)[0], wanted)


WHOLE = {
    f: exported(site(8, 4, False, True, False), inputs(2, 3, 0), ["y"], f)
    for f in ("qdq", "integer")
}


@settings(max_examples=30, deadline=None)
@given(
    flavour=st.sampled_from(["qdq", "integer"]),
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4, 1e30]),
    states=st.sampled_from(["all masked", "none masked", "mixed"]),
    seed=st.integers(0, 99),
)
def test_any_batch_length_state_and_magnitude(
    flavour: str, batch: int, length: int, scale: float, states: str, seed: int
) -> None:
    given_inputs = inputs(batch, length, seed)
    given_inputs["x"] *= scale
    if states != "mixed":
        given_inputs["state"] = torch.full((batch, length), int(states == "all masked"))
    wanted = site(8, 4, False, True, False)(*given_inputs.values())
    with tempfile.TemporaryDirectory() as folder:
        (found,) = run(WHOLE[flavour], given_inputs, Path(folder))
    assert close(found, wanted)


def test_codes_of_four_bits_are_stored_packed() -> None:
    weight = WHOLE["qdq"].graph.initializers["site.weight"].const_value
    assert weight is not None
    assert weight.dtype == ir.DataType.INT4
    assert list(weight.shape) == [FEATURES, OUTPUTS], "as runtimes fuse them"
    assert weight.nbytes == FEATURES * OUTPUTS // 2
    assert len(weight.tobytes()) == weight.nbytes


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_zero_points_are_channels_of_a_wide_linear(bits: int, biased: bool, tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(bits)
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (OUTPUTS, 512), generator=source).to(torch.int8)
    tensors = {
        "packed": reference.pack(codes, bits),
        "weight_scale": torch.rand(OUTPUTS, generator=source),
        "column_sum": codes.sum(-1, dtype=torch.int32),
        "bias": 100 * torch.randn(OUTPUTS, generator=source),
    }

    def call(x: Tensor, **held: Tensor) -> Tensor:
        quantized = op("quantize_activation")(x, 8, False, None)
        weight = (held["packed"], held["weight_scale"], held["column_sum"], bits)
        added = (held["bias"] if biased else None, None, None)
        return op("quantized_linear")(*quantized, *weight, *added, torch.float32)

    module, x = Calls(call, **tensors), torch.randn(2, 3, 512, generator=source) + 1
    model = exported(module, {"x": x}, ["y"], "integer")
    wide = model.graph.initializers["site.weight_and_zero"].const_value
    assert wide is not None
    assert not wide.numpy().astype(int).sum(0).any(), "column sums are taken off"
    largest = {4: 7, 6: 63, 8: 127}[bits]
    assert abs(wide.numpy().astype(int)[512:]).max() <= largest
    kinds = [node.op_type for node in model.graph]
    assert "MatMul" not in kinds
    assert close(run(model, {"x": x}, tmp_path)[0], module(x))


@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=5), st.integers(1, 40))
def test_sums_are_spread_evenly(sums: list[int], rows: int) -> None:
    parts = spread(torch.tensor(sums), rows)
    assert parts.sum(0).tolist() == sums
    assert int((parts.amax(0) - parts.amin(0)).max()) <= 1


@pytest.mark.parametrize("flavour", ["qdq", "integer"])
def test_a_kronecker_basis_leaves_its_channels_in_another_order(
    flavour: str, tmp_path: Path
) -> None:
    module, source = site(8, 8, False, False, True), torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=source))[0] for n in (8, 2))

    def call(x: Tensor, state: Tensor, **held: Tensor) -> Tensor:
        gates: Any = (12, [12, 14, 14, 16], None, None)
        factors = [held["left"], held["right"]]
        quantized = op("transform_quantize")(
            x, state, None, factors, "kronecker", *gates, 8, False, None
        )
        weight = (held["packed"], held["weight_scale"], held["column_sum"], 8)
        return op("quantized_linear")(*quantized, *weight, None, None, None, torch.float32)

    held = dict(module.starquant["site"].named_buffers())
    turned, given_inputs = Calls(call, **held, left=left, right=right), inputs(2, 5, 3)
    model = exported(turned, given_inputs, ["y"], flavour)
    assert [node.op_type for node in model.graph].count("Transpose") == 1
    assert close(run(model, given_inputs, tmp_path)[0], turned(*given_inputs.values()))


def test_scales_of_groups(tmp_path: Path) -> None:
    codes = torch.randint(-8, 8, (OUTPUTS, FEATURES), dtype=torch.int8)
    groups = codes.unflatten(1, (2, -1))
    tensors = {
        "packed": reference.pack(codes, 4),
        "weight_scale": torch.rand(OUTPUTS, 2) + 0.1,
        "column_sum": groups.sum(-1, dtype=torch.int32),
    }

    def call(x: Tensor, **held: Tensor) -> Tensor:
        quantized = op("quantize_activation")(x, 8, False, None)
        none = (None, None, None)
        return op("quantized_linear")(*quantized, *list(held.values()), 4, *none, torch.float32)

    module, x = Calls(call, **tensors), {"x": inputs(2, 3, 0)["x"]}
    assert close(run(exported(module, x, ["y"]), x, tmp_path)[0], module(x["x"]))
    with pytest.raises(LoweringError, match="no scales of groups"):
        exported(module, x, ["y"], "integer")


def test_codes_from_elsewhere_are_refused() -> None:
    module = site(8, 8, False, False, True)

    def call(x: Tensor, **held: Tensor) -> Tensor:
        codes, scale, zero = op("quantize_activation")(x, 8, False, None)
        weight = (held["packed"], held["weight_scale"], held["column_sum"], 8)
        return op("quantized_linear")(
            codes.flip(1), scale, zero, *weight, None, None, None, torch.float32
        )

    module.function = call
    with pytest.raises(LoweringError, match="codes that no quantizer made"):
        exported(module, {"x": inputs(2, 3, 0)["x"]}, ["y"])
