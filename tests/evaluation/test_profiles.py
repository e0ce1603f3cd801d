import torch

from starquant_fx.evaluation import mask_plan
from starquant_fx.evaluation.masks import masked_batches
from starquant_fx.evaluation.profiles import LEVELS, activation_profiles
from starquant_fx.passes import AssignRoles, Canonicalize
from starquant_fx.program import facts
from tests.small_models import MASK, masked_ids
from tests.small_programs import rewritten, values


def test_profiles_tell_masked_from_unmasked_tokens_at_every_site() -> None:
    program = rewritten("llada", (Canonicalize(), AssignRoles()))
    clean = masked_ids("llada", (4, 10), ratio=0.0)
    plan = mask_plan(4, 10, ratios=(0.3,))
    batches = list(masked_batches(clean, plan.at_ratio, MASK["llada"], batch=3))
    found = activation_profiles(program, batches)
    assert [p.site for p in found] == [s.name for s in program.quantized_sites()]
    assert {p.roles for p in found} == {("q", "k", "v"), ("o",), ("gate", "up"), ("down",)}
    assert [p.layer for p in found if p.roles == ("o",)] == [0, 1, 2]
    down = found[3]
    node = next(n for n in program.graph.nodes if facts(n).get("feeds") == down.site)
    whole = torch.cat([values(program.module, [node], b.ids)[0] for b in batches])
    for state, tokens in enumerate((whole[~plan.at_ratio[0]], whole[plan.at_ratio[0]])):
        assert torch.equal(down.channels[state], tokens.abs().amax(0))
        expected = tokens.flatten().quantile(torch.tensor(LEVELS), interpolation="nearest")
        assert torch.allclose(down.quantiles[state], expected)


def test_a_state_without_tokens_has_no_profile() -> None:
    program = rewritten("odd", (Canonicalize(), AssignRoles()))
    plan = mask_plan(4, 10, ratios=(1.0,))
    batches = list(
        masked_batches(masked_ids("odd", (4, 10), 0.0), plan.at_ratio, MASK["odd"], batch=3)
    )
    for profile in activation_profiles(program, batches):
        for found in (profile.quantiles, profile.channels):
            assert found[0].isnan().all()
            assert found[1].isfinite().all()
