from __future__ import annotations

import pytest
import torch

from starquant_fx.calibration.activations import full_precision_parameters
from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.passes import (
    EstimateMeans,
    FoldSgat,
    Fuse,
    InsertCentering,
    InsertPartition,
    InsertQuantizers,
    InsertSgat,
    InsertTokenState,
)
from starquant_fx.recipe import SiteRecipe
from tests.small_models import masked_ids, model
from tests.small_programs import continued, logits, relative, rewritten, until

STRUCTURES = ("dense", "kronecker", "block", "hadamard")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_without_gates_and_quantizers_the_folded_model_is_the_original(
    kind: str, structure: str
) -> None:
    program = rewritten(kind, until("assign-roles"))
    for site in program.quantized_sites():
        site.options = SiteRecipe(16, 16)
    folded = continued(
        program,
        InsertTokenState(),
        InsertPartition(),
        InsertCentering(),
        EstimateMeans(),
        InsertSgat(structure=structure, rank=0, start="gaussian"),
        InsertQuantizers(),
        FoldSgat(),
        Fuse(),
    )
    weights = [t for n, t in folded.tensors().items() if n.endswith(".weight") and "_proj" in n]
    assert weights
    ids = masked_ids(kind, (3, 11), 0.5)
    assert relative(logits(folded.module, ids), logits(model(kind), ids)) < 1e-5


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_packed_codes_are_those_of_the_reference(bits: int) -> None:
    program = rewritten("odd", until("fit-sgat", f"star-w{bits}a4"), f"star-w{bits}a4")
    folded = continued(program, FoldSgat())
    made = folded.tensors()
    linears = 0
    for site in folded.quantized_sites():
        rotate = folded.site_node(site, "rotate")
        factors = [folded.tensor(n) for n in rotate.args[1]]  # type: ignore[union-attr,arg-type]
        parameters = full_precision_parameters(folded, site)
        for name, (weight, _) in zip(site.linears, parameters, strict=True):
            rotated = reference.rotate(weight, factors, str(rotate.args[2]))
            clip = program.tensors()[f"starquant.{name}.clip_weight"]
            codes, scale = reference.quantize_weight(rotated, bits, clip)
            packed = made[f"starquant.{name}.packed"]
            assert torch.equal(packed, reference.pack(codes, bits))
            assert torch.equal(made[f"starquant.{name}.weight_scale"], scale)
            linears += 1
    assert linears == 7


def test_nothing_is_computed_from_weights_at_run_time() -> None:
    program = rewritten("odd", until("fit-sgat"))
    assert program.nodes(op("quantize_weight"))
    folded = continued(program, FoldSgat())
    assert not folded.nodes(op("quantize_weight"))
    assert not folded.nodes(op("pack"))
    assert len(folded.nodes(op("rotate"))) == 4  # activations only
    names = folded.tensors()
    assert not [n for n in names if n.endswith(".clip_weight") or ("folded" in n and "_proj" in n)]
    assert not [n for n, _ in folded.module.named_buffers() if n not in names]


def test_weights_that_are_not_quantized_are_folded_into_float_ones() -> None:
    program = rewritten("odd", until("fit-sgat", "star-w16a4"), "star-w16a4")
    folded = continued(program, FoldSgat())
    site = next(iter(folded.quantized_sites()))
    (linear, *_) = folded.site_nodes(site, "linear")
    assert linear.args[1].op == "get_attr"  # type: ignore[union-attr]
    rotated = program.evaluate(program.site_nodes(site, "rotate_weight")[0])
    assert torch.equal(folded.tensor(linear.args[1]), rotated)  # type: ignore[arg-type]
