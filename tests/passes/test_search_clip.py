from __future__ import annotations

import pytest
import torch

from starquant_fx.calibration.activations import site_activations, transformed_tokens
from starquant_fx.calibration.clipping import activation_clip, weight_clip
from starquant_fx.calibration.fake_quantize import quantized_product
from starquant_fx.errors import PassError
from starquant_fx.passes import FoldSgat, InsertQuantizers, MeasureSites, SearchClip
from starquant_fx.program import Program
from starquant_fx.recipe import SiteRecipe
from tests.small_programs import continued, rewritten, until

GRID = torch.linspace(0.5, 1.0, 6)


def clipped(recipe: str) -> Program:
    before = rewritten("dream", until("assign-roles", recipe), recipe)
    return continued(before, InsertQuantizers(clip=True))


def test_weights_take_the_factor_of_least_output_error() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 12, generator=generator)
    x = torch.randn(40, 12, generator=generator)
    found = weight_clip(weight, x.T @ x / 40, 3, GRID)
    losses = torch.stack(
        [
            (quantized_product(x, weight, SiteRecipe(3, 16), None, f.expand(7)) - x @ weight.T)
            .pow(2)
            .sum(0)
            for f in GRID
        ]
    )
    assert torch.equal(found, GRID[losses.argmin(0)])
    assert len(set(found.tolist())) > 1


def test_an_outlier_of_every_token_is_clipped_when_nothing_reads_it() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    x[:, 0] = 40.0
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    weight[:, 0] = 0
    found = activation_clip(x, weight, SiteRecipe(16, 4), None, GRID)
    assert found.tolist() == [0.5, 0.5]
    weight[:, 0] = 10
    assert activation_clip(x, weight, SiteRecipe(16, 4), None, GRID).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("recipe", ["rtn-w3a16", "rtn-w16a3", "rtn-w3a3"])
def test_it_lowers_the_error_of_the_sites(recipe: str) -> None:
    program = clipped(recipe)
    plain = continued(program, FoldSgat(), MeasureSites())
    searched = continued(program, SearchClip(), FoldSgat(), MeasureSites())
    old, new = (
        sum(p.findings[s.name]["error"] for s in p.quantized_sites()) for p in (plain, searched)
    )
    assert new < 0.95 * old


def test_factors_are_those_of_what_the_quantizer_reads() -> None:
    program = clipped("rtn-w4a4")
    after = continued(program, SearchClip(grid=6, lowest=0.5))
    for site, tokens, label in site_activations(program):
        x = transformed_tokens(program, site, tokens, label)
        for node in after.site_nodes(site, "quantize_weight"):
            weight = after.evaluate(node.args[0])  # type: ignore[arg-type]
            expected = weight_clip(weight, x.T @ x / len(x), 4, GRID)
            assert torch.equal(after.tensor(node.args[2]), expected)  # type: ignore[arg-type]


def test_quantizers_without_clip_factors_are_refused() -> None:
    program = rewritten("odd", until("insert-quantizers", "rtn-w4a4"), "rtn-w4a4")
    with pytest.raises(PassError, match="no clip factors") as caught:
        SearchClip().requires(program)
    assert "insert-quantizers{clip=True}" in str(caught.value)


@pytest.mark.parametrize("options", [{"grid": 1}, {"lowest": 0.0}, {"lowest": 1.1}])
def test_unusable_grids_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(PassError, match="out of range"):
        SearchClip(**options).check_options()  # type: ignore[arg-type]
