from __future__ import annotations

import dataclasses

import pytest
import torch

from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.passes import InsertQuantizers
from starquant_fx.program import LINEAR
from starquant_fx.recipes import get_recipe
from tests.small_models import masked_ids
from tests.small_programs import continued, rewritten, site_of, until, values

BEFORE = until("assign-roles")


@pytest.mark.parametrize(
    ("name", "activations", "weights"),
    [("rtn-w4a8", 4, 7), ("rtn-w4a16", 0, 7), ("rtn-w16a4", 4, 0)],
)
def test_the_bits_say_which_quantizers_there_are(name: str, activations: int, weights: int) -> None:
    program = rewritten("odd", BEFORE, name)
    assert not program.nodes(op("quantize_activation"))
    after = continued(program, InsertQuantizers())
    assert len(after.nodes(op("quantize_activation"))) == activations
    assert len(after.nodes(op("dequantize_activation"))) == activations
    for one in ("quantize_weight", "pack", "dequantize_weight"):
        assert len(after.nodes(op(one))) == weights
    assert len(after.nodes(LINEAR)) == 8


def test_linears_read_what_the_reference_quantizers_say() -> None:
    recipe = dataclasses.replace(get_recipe("rtn-w3a5"), symmetric=True)
    after = continued(rewritten("odd", BEFORE, recipe), InsertQuantizers())
    site = site_of(after, "down")
    (linear,) = after.site_nodes(site, "linear")
    quantize = after.site_node(site, "quantize")
    nodes = [quantize.args[0], linear.args[0], linear.args[1]]
    x, restored, weight = values(after.module, nodes, masked_ids("odd", (2, 6), 0.5))  # type: ignore[arg-type]
    codes, scale, zero = reference.quantize_activation(x, 5, True, None)
    assert torch.equal(restored, reference.dequantize_activation(codes, scale, zero, x.dtype))
    full = after.tensor(after.site_node(site, "quantize_weight").args[0])  # type: ignore[arg-type]
    levels, step = reference.quantize_weight(full, 3, None)
    assert torch.equal(weight, levels * step[:, None])
    assert 0 < float((weight - full).abs().max()) <= float(step.max()) / 2 * 1.001


def test_clip_factors_start_at_one_and_one_bit_more_is_closer() -> None:
    program = rewritten("odd", BEFORE)
    plain = continued(program, InsertQuantizers())
    clipped = continued(program, InsertQuantizers(clip=True))
    names = [n for n in clipped.tensors() if n.endswith((".clip", ".clip_weight"))]
    assert len(names) == 4 + 7
    assert all(bool((clipped.tensors()[n] == 1).all()) for n in names)
    assert not [n for n in plain.tensors() if n.endswith((".clip", ".clip_weight"))]
    ids = masked_ids("odd", (2, 6), 0.5)
    for program in (plain, clipped):
        (codes, *_), *_ = values(program.module, program.nodes(op("quantize_activation")), ids)
        assert codes.dtype == torch.uint8
        assert int(codes.max()) <= 15
