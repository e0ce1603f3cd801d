from __future__ import annotations

import pytest
import torch

from starquant_fx.errors import PassError
from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.passes import Fuse
from starquant_fx.program import LINEAR, facts
from starquant_fx.recipes import get_recipe
from tests.small_models import masked_ids
from tests.small_programs import (
    code_nodes,
    continued,
    logits,
    relative,
    rewritten,
    site_of,
    until,
    values,
)

BEFORE = until("insert-tac")
PLAIN = until("insert-tac", get_recipe("star-w4a4").without("insert-low-rank"))
LOOSE = ("compensate", "center", "rotate", "gate", "quantize_activation", "dequantize_activation")


@pytest.mark.parametrize("form", ["gates", "partition"])
@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_a_site_becomes_one_transform_and_one_product_a_linear(kind: str, form: str) -> None:
    program = rewritten(kind, PLAIN)
    assert all(program.nodes(op(name)) for name in LOOSE)
    after = continued(program, Fuse(form=form))
    sites = list(after.quantized_sites())
    linears = sum(len(s.linears) for s in sites)
    assert not [n for name in LOOSE for n in after.nodes(op(name))]
    assert len(after.nodes(op("transform_quantize"))) == len(sites)
    assert len(after.nodes(op("quantized_linear"))) == linears
    assert not after.nodes(op("dequantize_weight"))
    assert len(after.nodes(LINEAR)) == 1  # the head
    partitions = len(sites) if form == "partition" else 0
    assert len(after.nodes(op("partition"))) == partitions
    assert len(after.nodes(op("scatter"))) == (linears if form == "partition" else 0)
    tac = after.site_node(site_of(after, "o"), "quantize")
    assert facts(tac)["fused"] == ("gate", "rotate", "center", "tac")


def test_what_stands_before_a_low_rank_branch_stays_apart() -> None:
    after = continued(rewritten("dream", BEFORE), Fuse())
    sites = list(after.quantized_sites())
    for site in sites:
        (split,) = after.site_nodes(site, "split")
        assert split.target == op("split_low_rank")
        assert facts(after.site_node(site, "quantize"))["fused"] == ("gate", "rotate")
    assert len(after.nodes(op("center"))) == len(sites)
    assert len(after.nodes(op("quantized_linear"))) == sum(len(s.linears) for s in sites)


@pytest.mark.parametrize("kind", ["odd", "llada", "dream", "bert"])
def test_partition_and_gates_are_the_same_function_with_the_same_codes(kind: str) -> None:
    program = rewritten(kind, BEFORE)
    gates, partition = (continued(program, Fuse(form=form)) for form in ("gates", "partition"))
    by_gates, by_partition = code_nodes(gates.module), code_nodes(partition.module)
    assert set(by_gates) == set(by_partition) == {s.name for s in gates.quantized_sites()}
    orders = {s.name: partition.site_node(s, "order") for s in partition.quantized_sites()}
    for seed in range(3):
        ids = masked_ids(kind, (3, 13), 0.5, seed)
        assert relative(logits(partition.module, ids), logits(gates.module, ids)) < 1e-5
        plain = values(gates.module, list(by_gates.values()), ids)
        sorted_codes = values(partition.module, [by_partition[s] for s in by_gates], ids)
        order = values(partition.module, [orders[s] for s in by_gates], ids)
        for (codes, *_), (others, *_), rows in zip(plain, sorted_codes, order, strict=True):
            assert torch.equal(codes.flatten(0, 1)[rows], others)


def test_column_sums_are_the_sums_of_the_codes() -> None:
    after = rewritten("odd", until("fuse"))
    made = after.tensors()
    for site in after.quantized_sites():
        for name, outputs in zip(site.linears, site.outputs, strict=True):
            codes = reference.unpack(made[f"starquant.{name}.packed"], 4, outputs, site.features)
            sums = made[f"starquant.{name}.column_sum"]
            assert sums.dtype == torch.int32
            assert torch.equal(sums.long(), codes.long().sum(1))


def test_rtn_keeps_the_plain_quantizer_and_fuses_the_products() -> None:
    after = rewritten("odd", until("fuse", "rtn-w4a4"), "rtn-w4a4")
    assert not after.nodes(op("transform_quantize"))
    assert len(after.nodes(op("quantize_activation"))) == 4
    assert len(after.nodes(op("quantized_linear"))) == 7


@pytest.mark.parametrize(
    ("name", "transforms", "linears"), [("star-w4a16", 0, 8), ("star-w16a4", 4, 8)]
)
def test_a_site_with_one_side_quantized_keeps_its_float_linears(
    name: str, transforms: int, linears: int
) -> None:
    after = rewritten("odd", until("fuse", name), name)
    assert len(after.nodes(op("transform_quantize"))) == transforms
    assert len(after.nodes(LINEAR)) == linears
    assert not after.nodes(op("quantized_linear"))
    assert not after.nodes(op("partition"))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(PassError, match="fuse: unknown form") as caught:
        rewritten("odd", (*BEFORE, Fuse(form="hoisted")))
    assert "gates, partition" in str(caught.value)
