from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starquant_fx.capture import capture
from starquant_fx.errors import PassError
from starquant_fx.passes import AssignRoles, Canonicalize
from starquant_fx.program import LINEAR, Program, facts
from starquant_fx.recipes import get_recipe
from tests.small_programs import continued, rewritten, until

PASSES = until("assign-roles")
BLOCKS = "model.transformer.blocks."
ROLES = {
    "llada": {
        f"{BLOCKS}1.q_proj": "q",
        f"{BLOCKS}1.k_proj": "k",
        f"{BLOCKS}1.v_proj": "v",
        f"{BLOCKS}1.attn_out": "o",
        f"{BLOCKS}1.ff_proj": "gate",
        f"{BLOCKS}1.up_proj": "up",
        f"{BLOCKS}1.ff_out": "down",
        "model.transformer.ff_out": "head",
    },
    "dream": {
        "model.layers.2.self_attn.q_proj": "q",
        "model.layers.2.self_attn.k_proj": "k",
        "model.layers.2.self_attn.v_proj": "v",
        "model.layers.2.self_attn.o_proj": "o",
        "model.layers.2.mlp.gate_proj": "gate",
        "model.layers.2.mlp.up_proj": "up",
        "model.layers.2.mlp.down_proj": "down",
        "lm_head": "head",
    },
    "bert": {
        "bert.encoder.layer.0.attention.self.query": "q",
        "bert.encoder.layer.0.attention.self.key": "k",
        "bert.encoder.layer.0.attention.self.value": "v",
        "bert.encoder.layer.0.attention.output.dense": "o",
        "bert.encoder.layer.0.intermediate.dense": "up",
        "bert.encoder.layer.0.output.dense": "down",
        "cls.predictions.transform.dense": "dense",
        "cls.predictions.decoder": "head",
    },
    "modernbert": {
        "model.layers.0.attn.Wqkv": "qkv",
        "model.layers.0.attn.Wo": "o",
        "model.layers.1.mlp.Wi": "gate_up",
        "model.layers.1.mlp.Wo": "down",
        "head.dense": "dense",
        "decoder": "head",
    },
}


def roles(program: Program) -> dict[str, str]:
    return {facts(n)["of"]: facts(n)["role"] for n in program.nodes(LINEAR)}


@pytest.mark.parametrize("kind", ROLES)
def test_roles_follow_the_dataflow(kind: str) -> None:
    found = roles(rewritten(kind, PASSES))
    assert {name: found[name] for name in ROLES[kind]} == ROLES[kind]
    assert set(found.values()) == set(ROLES[kind].values())


@pytest.mark.parametrize("kind", ROLES)
def test_every_linear_of_the_model_belongs_to_one_site(kind: str) -> None:
    program = rewritten(kind, PASSES)
    names = [name for site in program.sites.values() for name in site.linears]
    assert sorted(names) == sorted(roles(program))
    assert len(names) == len(set(names))


def test_linears_that_read_one_tensor_share_a_site() -> None:
    program = rewritten("dream", PASSES)
    site = program.sites["model.layers.0.self_attn.q_proj"]
    assert site.roles == ("q", "k", "v")
    assert (site.features, site.outputs) == (64, (64, 32, 32))
    site = program.sites["model.layers.0.mlp.gate_proj"]
    assert site.linears == ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj")
    site = program.sites["model.layers.0.mlp.down_proj"]
    assert (site.roles, site.features, site.outputs) == (("down",), 176, (64,))


class Misnamed(nn.Module):
    """One block whose linears are named after what they do not do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.gate_proj, self.o_proj, self.lm_head = (nn.Linear(8, 8) for _ in range(3))
        self.q_proj = nn.Linear(8, 8)
        self.up_proj, self.v_proj, self.k_proj = (nn.Linear(8, 8) for _ in range(3))
        self.down_proj = nn.Linear(8, 13)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, 4)).transpose(1, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        q, k, v = (self.heads(f(x)) for f in (self.gate_proj, self.o_proj, self.lm_head))
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = F.layer_norm(x + self.q_proj(a), (8,))
        x = F.layer_norm(x + self.k_proj(F.gelu(self.up_proj(x)) * self.v_proj(x)), (8,))
        out: Tensor = self.down_proj(x)
        return out


def test_names_do_not_matter() -> None:
    torch.manual_seed(0)
    program = capture(Misnamed().eval(), get_recipe("rtn-w8a8"), mask_token_id=12)
    assert roles(continued(program, *PASSES)) == {
        "gate_proj": "q",
        "o_proj": "k",
        "lm_head": "v",
        "q_proj": "o",
        "up_proj": "gate",
        "v_proj": "up",
        "k_proj": "down",
        "down_proj": "head",
    }


def test_ignored_sites_carry_the_reason() -> None:
    recipe = dataclasses.replace(get_recipe("rtn-w4a4"), ignore=("role:head", "re:.*down_proj"))
    program = rewritten("dream", PASSES, recipe)
    left = {s.name: s.reason for s in program.sites.values() if s.options is None}
    assert left["lm_head"] == "ignored by the recipe (role:head)"
    assert left["model.layers.0.mlp.down_proj"] == "ignored by the recipe (re:.*down_proj)"
    assert len(left) == 4


def test_overrides_choose_bits_by_site_and_the_last_one_wins() -> None:
    overrides = (("role:down", "w8a8"), ("model.layers.1.mlp.down_proj", "w16a16"))
    recipe = dataclasses.replace(get_recipe("rtn-w4a4"), overrides=overrides)
    program = rewritten("dream", PASSES, recipe)
    assert str(program.sites["model.layers.0.mlp.down_proj"].options) == "w8a8"
    assert program.sites["model.layers.1.mlp.down_proj"].options is None
    assert program.sites["model.layers.1.mlp.down_proj"].reason == "16 bits on both sides"
    assert str(program.sites["model.layers.0.mlp.gate_proj"].options) == "w4a4"


def test_a_recipe_that_quantizes_nothing_is_refused() -> None:
    recipe = dataclasses.replace(get_recipe("rtn-w4a4"), ignore=("re:.*",))
    with pytest.raises(PassError, match="leaves every linear in full precision") as caught:
        rewritten("odd", (Canonicalize(), AssignRoles()), recipe)
    assert "ignore patterns" in str(caught.value)


def test_the_graph_is_kept_as_reference() -> None:
    program = rewritten("odd", PASSES)
    assert set(program.stages) == {"assign-roles"}


@pytest.mark.parametrize(
    ("change", "pattern", "offered"),
    [
        ({"overrides": (("re:.*downn_proj", "w8a8"),)}, "re:.*downn_proj", "down_proj"),
        ({"ignore": ("lm_haed",)}, "lm_haed", "lm_head"),
        ({"overrides": (("role:gate_up", "w8a8"),)}, "role:gate_up", ""),
    ],
)
def test_patterns_that_match_nothing_are_refused(
    change: dict[str, Any], pattern: str, offered: str
) -> None:
    recipe = dataclasses.replace(get_recipe("rtn-w4a4"), **change)
    with pytest.raises(PassError, match="matches no linear") as caught:
        rewritten("dream", PASSES, recipe)
    assert caught.value.where == pattern
    assert offered in str(caught.value)


def test_a_model_without_a_head_needs_no_other_recipe() -> None:
    recipe = dataclasses.replace(get_recipe("rtn-w4a4"), ignore=("role:head",))
    assert list(recipe.patterns()) == []
