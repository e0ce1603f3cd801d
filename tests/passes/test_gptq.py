from __future__ import annotations

import pytest
import torch

from starquant_fx.calibration.activations import (
    site_activations,
    transformed_tokens,
)
from starquant_fx.calibration.gptq import DenseFeedback, gptq, hessian
from starquant_fx.calibration.stepwise import quantized_inputs
from starquant_fx.errors import CalibrationError, PassError
from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.passes import FoldSgat, Gptq, MeasureSites
from starquant_fx.passes import gptq as module
from starquant_fx.program import Program, Site, facts
from tests.small_programs import continued, rewritten, until, values

BEFORE = until("fit-sgat")


def packed(program: Program) -> dict[str, torch.Tensor]:
    sites = program.quantized_sites()
    return {
        str(facts(n)["of"]): program.tensor(n)
        for s in sites
        for n in program.site_nodes(s, "packed")
    }


@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_codes_are_gptqs_on_transformed_and_gated_inputs(kind: str) -> None:
    program = rewritten(kind, BEFORE)
    after = continued(program, Gptq(inputs="full", damping=0.05, order=False))
    found = packed(after)
    for site, tokens, label in site_activations(program):
        second = hessian(transformed_tokens(program, site, tokens, label))
        for quantizer in program.site_nodes(site, "quantize_weight"):
            weight, name = program.evaluate(quantizer.args[0]), facts(quantizer)["of"]  # type: ignore[arg-type]
            clip = program.tensor(quantizer.args[2])  # type: ignore[arg-type]
            scale = reference.weight_scale(weight, 4, clip)
            codes = gptq(weight, DenseFeedback.of(second, 0.05, order=False), scale, 4)
            assert torch.equal(found.pop(name), reference.pack(codes, 4))
    assert not found


def test_no_weight_is_rounded_after_it_and_folding_keeps_its_codes() -> None:
    after = continued(rewritten("dream", BEFORE), Gptq())
    assert not after.nodes(op("quantize_weight"))
    folded = continued(after, FoldSgat())
    before = packed(after)
    assert all(torch.equal(value, before[name]) for name, value in packed(folded).items())


def test_it_lowers_the_error_of_sites_without_a_transform() -> None:
    program = rewritten("dream", until("insert-quantizers", "rtn-w3a16"), "rtn-w3a16")
    plain = continued(program, FoldSgat(), MeasureSites())
    better = continued(program, Gptq(), FoldSgat(), MeasureSites())
    errors = [[p.findings[s.name]["error"] for s in p.quantized_sites()] for p in (plain, better)]
    assert sum(errors[1]) < 0.8 * sum(errors[0])


def test_certainty_changes_codes() -> None:
    program = rewritten("odd", BEFORE)
    plain, weighted = (packed(continued(program, Gptq(unmasked=c))) for c in (1.0, 0.01))
    assert any(not torch.equal(plain[name], weighted[name]) for name in plain)


def test_activations_only_are_left_alone() -> None:
    program = rewritten("odd", until("fit-sgat", "star-w16a4"), "star-w16a4")
    assert not packed(continued(program, Gptq()))


@pytest.mark.parametrize("option", ["damping", "masked", "unmasked"])
def test_numbers_out_of_range_are_refused(option: str) -> None:
    with pytest.raises(PassError, match="out of range") as caught:
        Gptq(**{option: 0.0}).check_options()  # type: ignore[arg-type]
    assert caught.value.where == option


def test_nothing_to_calibrate_with_is_refused() -> None:
    program = rewritten("odd", until("insert-quantizers", "rtn-w4a4"), "rtn-w4a4", calibrated=False)
    with pytest.raises(PassError, match="nothing to calibrate with"):
        Gptq().requires(program)


def test_inputs_are_those_of_the_model_quantized_so_far() -> None:
    """The first site reads the same either way; later ones do not."""
    program = rewritten("dream", until("insert-quantizers", "rtn-w4a4"), "rtn-w4a4")
    full, quantized = (packed(continued(program, Gptq(inputs=i))) for i in ("full", "quantized"))
    first = "model.layers.0.self_attn.q_proj"
    assert torch.equal(full[first], quantized[first])
    later = [name for name in full if not torch.equal(full[name], quantized[name])]
    assert any("layers.2" in name for name in later)


def test_quantized_inputs_are_what_the_finished_graph_feeds_every_site() -> None:
    """The weights are replaced while the run that yields the inputs is under way."""
    program = rewritten("odd", until("insert-quantizers", "rtn-w4a4"), "rtn-w4a4")
    seen = []
    one = Gptq()
    transformed = module.transformed_tokens

    def spy(
        program: Program, site: Site, tokens: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        seen.append(tokens)
        return transformed(program, site, tokens, label)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "transformed_tokens", spy)
        after = continued(program, one)
    for x, (site, again) in zip(seen, quantized_inputs(after), strict=True):
        node = next(n for n in after.graph.nodes if facts(n).get("feeds") == site.name)
        assert after.calibration is not None
        expected = [
            values(after.module, [node], ids)[0].flatten(0, -2) for ids in after.calibration.batches
        ]
        assert torch.equal(x, torch.cat(expected))
        assert torch.equal(x, again)
    last = list(site_activations(after))[-1][1]
    assert not torch.equal(seen[-1], last)


def test_inputs_that_are_not_finite_are_refused() -> None:
    program = rewritten("odd", until("insert-quantizers", "rtn-w4a4"), "rtn-w4a4")
    name = next(n for n in program.tensors() if "ff_norm" in n or "norm" in n or "wte" in n)
    program.set_tensor(name, program.tensors()[name] * float("nan"))
    with pytest.raises(CalibrationError, match="not finite"):
        continued(program, Gptq())
