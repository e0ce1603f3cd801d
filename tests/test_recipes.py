from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starquant_fx import get_recipe
from starquant_fx.errors import RecipeError
from starquant_fx.pass_base import Pass, parse_pass
from starquant_fx.pass_manager import check_order, run_passes
from starquant_fx.passes import REGISTRY, FitSgat, Fuse, InsertSgat, InsertTokenState
from starquant_fx.program import LINEAR
from starquant_fx.recipe import CalibrationOptions, Recipe
from starquant_fx.recipes import METHODS, from_dict, recipe_names
from tests.small_programs import captured, quick

NAMES = [f"{method}-{bits}" for method in METHODS for bits in ("w4a4", "w2a8", "w8a16", "w16a3")]
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def any_pass(draw: st.DrawFn) -> Pass:
    kind = REGISTRY[draw(st.sampled_from(sorted(REGISTRY)))]
    options: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        drawn: dict[type, st.SearchStrategy[Any]] = {
            bool: st.booleans(),
            int: st.integers(),
            float: st.one_of(FINITE, st.integers(-9, 9)),
            str: st.from_regex(r"[a-z][a-z0-9+_-]*", fullmatch=True),
            tuple: st.lists(FINITE, max_size=3).map(tuple),
        }
        if draw(st.booleans()):
            options[field.name] = draw(drawn[type(field.default)])
    return kind.with_options(options)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(any_pass())
def test_the_text_of_a_pass_reads_back(one: Pass) -> None:
    assert parse_pass(str(one), REGISTRY) == one
    assert str(parse_pass(f"  {one} ", REGISTRY)) == str(one)


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert str(Fuse()) == "fuse"
    assert str(Fuse(form="partition")) == "fuse{form=partition}"
    assert str(InsertTokenState(edges=(0.25, 0.5))) == "insert-token-state{edges=(0.25,0.5)}"
    assert str(FitSgat(lr=1e-05, aim=False)) == "fit-sgat{lr=1e-05,aim=False}"


@pytest.mark.parametrize(
    "text",
    ["", "Fuse", "fuse{", "fuse}", "fuse{}x", "fuse form=gates", "1fuse", "fuse{form}", "fuse{,x}"],
)
def test_malformed_texts_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="malformed pass") as caught:
        parse_pass(text, REGISTRY)
    assert caught.value.where == text


def test_unknown_passes_and_options_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="unknown pass 'fold-sgta'") as caught:
        parse_pass("fold-sgta", REGISTRY)
    assert "did you mean 'fold-sgat'?" in str(caught.value)
    with pytest.raises(RecipeError, match="pass insert-sgat has no option 'rnak'") as caught:
        parse_pass("insert-sgat{rnak=4}", REGISTRY)
    assert "did you mean 'rank'?" in str(caught.value)
    with pytest.raises(RecipeError, match="has no option") as caught:
        parse_pass("assign-roles{x=1}", REGISTRY)
    assert "no options" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "insert-sgat{rank=four}",
        "insert-sgat{rank=4.0}",
        "insert-sgat{rank=True}",
        "insert-sgat{rank=None}",
        "insert-sgat{structure=3}",
        "fit-sgat{lr=fast}",
        "fit-sgat{lr=True}",
        "fit-sgat{lr=None}",
        "fit-sgat{aim=1}",
        "insert-token-state{edges=0.5}",
    ],
)
def test_options_of_a_wrong_type_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="has a wrong type"):
        parse_pass(text, REGISTRY)


# Names


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_found_by_name(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.name == name
    assert recipe == get_recipe(name)
    assert get_recipe(recipe) is recipe
    assert hash(recipe) == hash(get_recipe(name))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("sar-w4a4", "star-w4a4"),
        ("star", "star-w4a4"),
        ("rtm-w8a8", "rtn-w8a8"),
        ("star-papr-w4a4", "star-paper-w4a4"),
    ],
)
def test_unknown_recipes_are_refused_with_the_nearest_name(name: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown recipe '{name}'") as caught:
        get_recipe(name)
    assert f"did you mean '{nearest}'?" in str(caught.value)


@pytest.mark.parametrize("name", ["", "-", "x-y-w4a4", "star_w4a4", "w4a4", "star-w4a4 "])
def test_other_texts_are_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        get_recipe(name)


@pytest.mark.parametrize("name", [None, 4, b"star-w4a4"])
def test_what_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(RecipeError, match="unknown recipe"):
        get_recipe(name)


@pytest.mark.parametrize(
    "bits", ["w9a4", "w1a4", "w0a4", "w4a9", "w4a1", "w4a0", "w4a15", "w32a32"]
)
@pytest.mark.parametrize("method", METHODS)
def test_bits_out_of_range_are_refused(method: str, bits: str) -> None:
    with pytest.raises(RecipeError, match="bits are out of range") as caught:
        get_recipe(f"{method}-{bits}")
    assert "2..8, or 16" in str(caught.value)
    assert caught.value.where == f"{method}-{bits}"


@pytest.mark.parametrize("bits", ["w4", "a4", "w4a", "4x4", "wxa4", "w4a4b", "W4A4"])
def test_malformed_bits_are_refused(bits: str) -> None:
    with pytest.raises(RecipeError, match="malformed bits"):
        get_recipe(f"star-{bits}")


@pytest.mark.parametrize("bits", [True, 4.0, "4", None, 9, -4])
def test_a_recipe_built_by_hand_checks_its_bits(bits: Any) -> None:
    with pytest.raises(RecipeError, match="weight bits are out of range"):
        Recipe("mine", bits, 4, (Fuse(),))
    with pytest.raises(RecipeError, match="activation bits are out of range"):
        Recipe("mine", 4, bits, (Fuse(),))


# Patterns


def test_patterns_match_names_expressions_and_roles() -> None:
    recipe = dataclasses.replace(
        get_recipe("rtn-w4a4"),
        ignore=("lm_head", "re:.*layers\\.0\\..*"),
        overrides=(("role:down", "w8a8"), ("re:.*5.*", "w3a16")),
    )
    assert recipe.for_site(("lm_head",), ("head",)) == (None, "ignored by the recipe (lm_head)")
    assert recipe.for_site(("my.lm_head",), ("head",))[0] is not None
    assert recipe.for_site(("layers.0.q",), ("q",))[0] is None
    assert recipe.for_site(("x.layers.0.q", "layers.1.k"), ("q", "k"))[0] is None
    assert str(recipe.for_site(("layers.1.down",), ("down",))[0]) == "w8a8"
    assert str(recipe.for_site(("layers.5.down",), ("down",))[0]) == "w3a16"
    assert str(recipe.for_site(("layers.1.up",), ("up",))[0]) == "w4a4"
    assert recipe.name == "rtn-w4a4[role:down=w8a8,re:.*5.*=w3a16]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": (("role:down", "w9a4"),)}, "weight bits are out of range"),
        ({"overrides": (("role:down", "int4"),)}, "malformed bits"),
        ({"overrides": (("re:(", "w4a4"),)}, "malformed regular expression"),
        ({"ignore": ("re:[",)}, "malformed regular expression"),
        ({"version": 2}, "unknown recipe version"),
        ({"ignore": ("role:haed",)}, "unknown role"),
        ({"overrides": (("role:", "w4a4"),)}, "unknown role"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dataclasses.replace(get_recipe("rtn-w4a4"), **change)


# As values


@pytest.mark.parametrize("name", NAMES)
def test_recipes_survive_json(name: str) -> None:
    recipe = dataclasses.replace(
        get_recipe(name),
        symmetric=True,
        ignore=("role:head", "re:.*x"),
        overrides=(("role:down", "w8a8"), ("q", "w2a2")),
        calibration=CalibrationOptions(samples=3, length=5, rollout_steps=1, seed=9),
    )
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_values_that_have_defaults_may_be_left_out() -> None:
    values = {"method": "mine", "weight_bits": 4, "activation_bits": 8, "passes": ["fuse"]}
    assert from_dict(values) == Recipe("mine", 4, 8, (Fuse(),))


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"wieght_bits": 4}, "unknown recipe key 'wieght_bits'", "did you mean 'weight_bits'?"),
        (
            {"calibration": {"sample": 4}},
            "unknown calibration key 'sample'",
            "did you mean 'samples'?",
        ),
        ({"passes": ["fuze"]}, "unknown pass 'fuze'", "did you mean 'fuse'?"),
        ({"passes": ["fuse{from=gates}"]}, "no option 'from'", "did you mean 'form'?"),
        ({"weight_bits": 12}, "weight bits are out of range", None),
        ({"version": 0}, "unknown recipe version", None),
        ({"passes": "fuse"}, "wrong type", None),
        ({"passes": [1]}, "wrong type", None),
        ({"ignore": "role:head"}, "wrong type", None),
        ({"overrides": [["role:down", "w8a8"]]}, "wrong type", None),
        ({"overrides": {"role:down": 8}}, "wrong type", None),
        ({"calibration": None}, "wrong type", None),
        ({"calibration": {"samples": "many"}}, "out of range", None),
        ({"symmetric": "yes"}, "wrong type", None),
        ({"method": 3}, "wrong type", None),
    ],
)
def test_values_are_read_strictly(change: dict[str, Any], message: str, hint: str | None) -> None:
    values = json.loads(json.dumps(get_recipe("rtn-w4a4").to_dict()))
    with pytest.raises(RecipeError, match=message) as caught:
        from_dict({**values, **change})
    if hint is not None:
        assert hint in str(caught.value)


@pytest.mark.parametrize("key", ["method", "weight_bits", "activation_bits", "passes"])
def test_missing_values_are_refused(key: str) -> None:
    values = get_recipe("rtn-w4a4").to_dict()
    del values[key]
    with pytest.raises(RecipeError, match=f"the recipe lacks {key}"):
        from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 0},
        {"length": 0},
        {"rollout_steps": -1},
        {"seed": -1},
        {"strata": (0.5, -0.1)},
        {"strata": (0.0, 0.0)},
        {"strata": 3},
        {"step_strata": (1.0, 1.0)},
        {"step_strata": (0.0, 0.0, 0.0, 0.0, 0.0)},
        {"rollout_steps": 1, "step_strata": (1.0, -1.0)},
    ],
)
def test_calibration_sizes_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="calibration"):
        CalibrationOptions(**change)


# Variations


def test_passes_can_be_left_out_replaced_and_seeded() -> None:
    recipe = get_recipe("star-w4a4")
    fewer = recipe.without("insert-tac", "measure-sites")
    assert len(fewer.passes) == len(recipe.passes) - 2
    assert fewer.name == "star(no insert-tac, measure-sites)-w4a4"
    other = recipe.replacing(InsertSgat(rank=3))
    assert InsertSgat(rank=3) in other.passes
    assert other.name == "star(insert-sgat{rank=3})-w4a4"
    for change in (
        lambda: recipe.without("insert-tax"),
        lambda: get_recipe("rtn-w4a4").replacing(FitSgat()),
    ):
        with pytest.raises(RecipeError, match="has no pass"):
            change()
    seeded = recipe.seeded(7)
    assert seeded.calibration.seed == 7
    assert {p.seed for p in seeded.passes if isinstance(p, (InsertSgat, FitSgat))} == {7}
    assert seeded.seeded(0) == recipe.seeded(0)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("quarot+center", ("insert-centering", "insert-sgat", "gptq")),
        ("dllmquant++", ("insert-sgat", "gptq")),
        ("dllmquant+", ("insert-scaling", "gptq")),
        ("dllmquant+++tac", ("insert-sgat", "gptq", "insert-tac")),
        ("rtn+clip+gptq", ("search-clip", "gptq")),
        ("smoothquant+lowrank", ("insert-low-rank", "insert-scaling")),
    ],
)
def test_extras_are_added_in_the_order_of_the_pipeline(name: str, passes: tuple[str, ...]) -> None:
    recipe = get_recipe(f"{name}-w4a4")
    assert recipe.name == f"{name}-w4a4"
    check_order(recipe.passes)
    places = [[p.name for p in recipe.passes].index(one) for one in passes]
    assert places == sorted(places)


def test_an_extra_keeps_the_passes_that_the_method_chose() -> None:
    star, more = get_recipe("star-w4a4"), get_recipe("star+clip+tac+center-w4a4")
    assert set(star.passes) < set(more.passes)
    assert [p.name for p in set(more.passes) - set(star.passes)] == ["search-clip"]


def test_an_unknown_extra_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"unknown extra 'centre'") as caught:
        get_recipe("quarot+centre-w4a4")
    assert "+center" in str(caught.value)
    assert "did you mean" in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", ["w4a4", "w4a8", "w8a8", "w4a16", "w2a16"])
def test_every_method_exists_at_the_usual_bits(method: str, bits: str) -> None:
    recipe = get_recipe(f"{method}-{bits}")
    check_order(recipe.passes)
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_bits_of_some_sites_in_a_name() -> None:
    recipe = get_recipe("quarot+center-w4a4[role:head=w8a8,re:.*[01]=w4a8]")
    assert recipe.overrides == (("role:head", "w8a8"), ("re:.*[01]", "w4a8"))
    assert recipe.ignore == (), "what has bits is not ignored"
    assert get_recipe("quarot-w4a4[role:down=w8a8]").ignore == ("role:head",)
    assert get_recipe(recipe.name) == recipe
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_names_in_a_list_keep_their_brackets() -> None:
    text = "rtn-w4a4, star-w4a4[role:head=w8a8,role:down=w8a8],,gptq-w4a4"
    expected = ["rtn-w4a4", "star-w4a4[role:head=w8a8,role:down=w8a8]", "gptq-w4a4"]
    assert recipe_names(text) == expected


def test_extras_are_estimated_on_as_much_as_other_methods() -> None:
    usual = CalibrationOptions()
    assert get_recipe("rtn-w4a4").calibration.samples < usual.samples
    assert get_recipe("rtn+clip+gptq-w4a4").calibration == usual
    assert get_recipe("star-paper+clip-w4a4").calibration.samples == 128


@pytest.mark.parametrize(
    ("name", "message", "where"),
    [
        ("star-w4a4[role:haed=w8a8]", "unknown role", "role:haed"),
        ("star-w4a4[role:head=w9a8]", "weight bits are out of range", "role:head"),
        ("star-w4a4[role:head]", "malformed bits", "override ''"),
        ("star-w4a4[]", "malformed bits", "override ''"),
        ("star-w4a4[role:head=w8a8", "malformed bits", "star-w4a4"),
        ("[role:head=w8a8]", "unknown recipe", "recipe"),
    ],
)
def test_malformed_bits_of_some_sites_are_refused(name: str, message: str, where: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        get_recipe(name)
    assert where in str(caught.value)


def test_a_head_in_eight_bits_has_no_transform() -> None:
    recipe = get_recipe("star-w4a4[role:head=w8a8]")
    program = run_passes(captured("llada", quick(recipe)), quick(recipe).passes)
    (head,) = (site for site in program.quantized_sites() if "head" in site.roles)
    named = [n for n in program.tensors() if head.name in n]
    parts = {name.rpartition(".")[2] for name in named}
    assert parts == {"packed", "weight_scale", "column_sum", "clip"}
    assert len(program.nodes(LINEAR)) == 0
