"""One test drives every pass at every position of several pipelines on every kind of model."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from starquant_fx.methods import pipeline
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.passes import (
    REGISTRY,
    Fuse,
    InsertDuquant,
    InsertScaling,
    InsertSgat,
    InsertTac,
    InsertTokenState,
    RefineSgat,
)
from starquant_fx.program import facts
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from tests.small_models import KINDS, MASK, masked_ids, model
from tests.small_programs import code_nodes, logits, quick, relative, rewritten, values

ROUNDING = 1e-4
FLIPS = 1e-3
"""Most codes that the rounding of another order of operations may move, by one level."""


def with_options(recipe: Recipe, *replaced: Pass) -> Recipe:
    by_name = {p.name: p for p in replaced}
    return dataclasses.replace(recipe, passes=tuple(by_name.get(p.name, p) for p in recipe.passes))


REFINED = quick("sgat-w4a4")
PIPELINES = {
    "star": quick("star-w4a4"),
    "rtn": quick("rtn-w4a8"),
    "buckets": with_options(
        quick("star-w8a4"),
        InsertTokenState(edges=(0.4, 0.7)),
        InsertSgat(structure="dense", rank=3, start="gaussian"),
        InsertTac(estimator="ridge", reference="original", per="both", tune=True),
        Fuse(form="partition"),
    ),
    "scaled": get_recipe("smoothquant+center-w4a8"),
    "searched": with_options(get_recipe("awq+gptq-w3a16"), InsertScaling(method="awq", grid=3)),
    "rotated": get_recipe("quarot+center+lowrank+tac+embed8-w4a4"),
    "dealt": with_options(get_recipe("duquant-w4a6"), InsertDuquant(block=18, steps=4)),
    "refined": dataclasses.replace(REFINED, passes=pipeline(*REFINED.passes, RefineSgat(epochs=1))),
    "weights-only": quick("star-w3a16"),
    "activations-only": quick("star-w16a5"),
}
RUNS = [(kind, name) for kind in KINDS for name in ("star", "rtn")]
RUNS += [("odd", name) for name in PIPELINES if name not in ("star", "rtn")]
POSITIONS = [(k, n, i) for k, n in RUNS for i in range(len(PIPELINES[n].passes))]


@functools.cache
def stage(kind: str, pipeline: str, passes: int) -> fx.GraphModule:
    """The graph after so many passes."""
    recipe = PIPELINES[pipeline]
    return rewritten(kind, recipe.passes[:passes], recipe).module


def inputs(kind: str) -> list[Tensor]:
    """Nothing masked, everything masked, one token of either kind, a batch of each."""
    return [
        masked_ids(kind, (1, 5), 0.0),
        masked_ids(kind, (3, 8), 1.0),
        masked_ids(kind, (1, 1), 0.0),
        masked_ids(kind, (1, 1), 1.0),
        masked_ids(kind, (3, 1), 0.5),
        masked_ids(kind, (3, 11), 0.5),
    ]


@st.composite
def drawn_ids(draw: st.DrawFn) -> tuple[tuple[int, int], float, int]:
    shape = (draw(st.sampled_from([1, 3])), draw(st.integers(1, 14)))
    return shape, draw(st.floats(0, 1)), draw(st.integers(0, 10**6))


def compare(one: Pass, before: fx.GraphModule, after: fx.GraphModule, ids: Tensor) -> None:
    expected, got = logits(before, ids), logits(after, ids)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert bool(torch.isfinite(got).all())
    if one.preserves is Preserves.BITWISE:
        assert torch.equal(got, expected)
    elif one.preserves is Preserves.NUMERICALLY and not codes_flipped(before, after, ids):
        assert relative(got, expected) < ROUNDING


def codes_flipped(before: fx.GraphModule, after: fx.GraphModule, ids: Tensor) -> bool:
    """Whether rounding moved codes; the first site where it did differs in few, by one level."""
    first, second = code_nodes(before), code_nodes(after)
    if set(first) != set(second):
        return False  # the pass inserts the quantizers
    order = {
        str(facts(n)["site"]): n for n in before.graph.nodes if facts(n).get("part") == "order"
    }
    old = values(before, [*first.values(), *order.values()], ids)
    new = values(after, [second[site] for site in first], ids)
    orders = dict(zip(order, old[len(first) :], strict=True))
    for site, (codes, *_), (others, *_) in zip(first, old, new, strict=False):
        if codes.shape != others.shape:  # the partition is gone
            others = others.flatten(0, -2)[orders[site]]
        moved = (codes.int() - others.int()).abs()
        if bool(moved.any()):
            assert int(moved.max()) == 1
            assert int(moved.sum()) <= max(1, FLIPS * moved.numel())
            return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_captured_graph_computes_what_the_model_does(kind: str) -> None:
    graph = stage(kind, "rtn", 0)
    for ids in inputs(kind):
        assert relative(logits(graph, ids), logits(model(kind), ids)) < 1e-5


@pytest.mark.parametrize(("kind", "pipeline", "position"), POSITIONS)
def test_pass_preserves_what_it_says(kind: str, pipeline: str, position: int) -> None:
    one = PIPELINES[pipeline].passes[position]
    before, after = (stage(kind, pipeline, position + i) for i in (0, 1))
    for ids in inputs(kind):
        compare(one, before, after, ids)

    @settings(max_examples=4, deadline=None, derandomize=True, database=None)
    @given(drawn_ids())
    def on_drawn_ids(drawn: tuple[tuple[int, int], float, int]) -> None:
        compare(one, before, after, masked_ids(kind, *drawn))

    on_drawn_ids()


def test_every_registered_pass_is_driven() -> None:
    driven = {p.name for _, name in RUNS for p in PIPELINES[name].passes}
    assert driven == set(REGISTRY)


@pytest.mark.parametrize("name", ["star-w4a4", "rtn-w4a4", "star-paper-w4a4"])
def test_pipelines_and_registry_agree_on_the_order(name: str) -> None:
    order = list(REGISTRY)
    places = [order.index(p.name) for p in get_recipe(name).passes]
    assert places == sorted(places)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_and_unmasked_tokens_are_told_apart(kind: str) -> None:
    finished = stage(kind, "star", len(PIPELINES["star"].passes))
    state = next(n for n in finished.graph.nodes if n.op == "call_function")
    ids = masked_ids(kind, (2, 9), 0.5)
    (got,) = values(finished, [state], ids)
    assert torch.equal(got, (ids == MASK[kind]).long())
