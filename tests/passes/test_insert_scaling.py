from __future__ import annotations

import pytest
import torch

from starquant_fx.calibration.activations import full_precision_parameters, site_activations
from starquant_fx.calibration.scaling import awq_scale, smoothquant_scale
from starquant_fx.errors import PassError
from starquant_fx.passes import FoldSgat, InsertQuantizers, InsertScaling, MeasureSites
from starquant_fx.recipe import SiteRecipe
from tests.small_models import masked_ids
from tests.small_programs import continued, logits, relative, rewritten, site_of, until

BEFORE = until("assign-roles", "rtn-w4a4")


def test_smoothquant_by_hand() -> None:
    tokens = torch.tensor([[1.0, -4.0], [-2.0, 16.0]])
    weight = torch.tensor([[8.0, 1.0], [1.0, -4.0]])
    # max|x| = 2, 16; max|W| = 8, 4: sqrt(2/8) and sqrt(16/4), ratio 4, geometric mean 1.
    assert smoothquant_scale(tokens, weight, 0.5).tolist() == pytest.approx([0.5, 2.0])
    assert smoothquant_scale(tokens, weight, 1.0).tolist() == pytest.approx([8**-0.5, 8**0.5])


def test_a_channel_that_is_always_zero_is_harmless() -> None:
    tokens, weight = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    for scale in (
        smoothquant_scale(tokens, weight, 0.5),
        awq_scale(tokens, weight, SiteRecipe(4, 16), 4)[0],
    ):
        assert bool(torch.isfinite(scale).all())
        assert float(scale.min()) > 0


def test_awq_protects_a_loud_channel_and_never_loses_to_no_scaling() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(256, 16, generator=generator)
    tokens[:, 3] *= 30
    weight = torch.randn(8, 16, generator=generator)
    scale, alpha = awq_scale(tokens, weight, SiteRecipe(3, 16), 20)
    assert alpha > 0
    assert int(scale.argmax()) == 3


@pytest.mark.parametrize("method", ["smoothquant", "awq"])
@pytest.mark.parametrize("kind", ["odd", "dream", "bert"])
def test_it_changes_nothing_before_the_quantizers(kind: str, method: str) -> None:
    program = rewritten(kind, BEFORE, "rtn-w4a4")
    after = continued(program, InsertScaling(method=method, alpha=0.7, grid=4))
    ids = masked_ids(kind, (2, 9), 0.5)
    got, expected = logits(after.module, ids), logits(program.module, ids)
    assert relative(got, expected) < 1e-5
    assert not torch.equal(got, expected)


def test_the_search_of_awq_lowers_the_error_of_every_site() -> None:
    program = rewritten("dream", until("insert-quantizers", "rtn-w3a16"), "rtn-w3a16")
    plain = continued(program, FoldSgat(), MeasureSites())
    before = rewritten("dream", until("assign-roles", "rtn-w3a16"), "rtn-w3a16")
    scaled = continued(
        before, InsertScaling(method="awq"), InsertQuantizers(), FoldSgat(), MeasureSites()
    )
    for site in plain.quantized_sites():
        old, new = (p.findings[site.name]["error"] for p in (plain, scaled))
        assert new <= old * 1.0001
        assert 0 <= scaled.findings[site.name]["alpha"] < 1
    assert any(scaled.findings[s.name]["alpha"] > 0 for s in plain.quantized_sites())


def test_the_scale_is_smoothquants_of_what_the_site_reads() -> None:
    program = rewritten("odd", BEFORE, "rtn-w4a4")
    after = continued(program, InsertScaling(alpha=0.25))
    site = site_of(after, "down")
    tokens = {s.name: x for s, x, _ in site_activations(program)}[site.name]
    weight = torch.cat([w for w, _ in full_precision_parameters(program, site)])
    inverse = after.tensor(after.site_node(site, "scale").args[1])  # type: ignore[arg-type]
    torch.testing.assert_close(1 / inverse, smoothquant_scale(tokens, weight, 0.25))


@pytest.mark.parametrize(
    ("options", "where"),
    [({"method": "spin"}, "method"), ({"alpha": 1.5}, "alpha"), ({"grid": 0}, "grid")],
)
def test_unusable_options_are_refused(options: dict[str, object], where: str) -> None:
    with pytest.raises(PassError) as caught:
        InsertScaling(**options).check_options()  # type: ignore[arg-type]
    assert caught.value.where == where
