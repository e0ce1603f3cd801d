"""Differences of stages, and ranges of stages as text."""

from __future__ import annotations

import dataclasses

import pytest

from starquant_fx.errors import InputError
from starquant_fx.inspection.difference import changes, difference, parse_range
from starquant_fx.inspection.recording import Node, Source
from tests.inspection.small import recording


def test_added_removed_and_changed_nodes_are_told_apart() -> None:
    one = recording()
    found = difference(one.stage("assign-roles"), one.stage("fuse"))
    assert [n.name for n in found.added[:3]] == ["codes_q_proj_0", "low_q_0", "low_k_0"]
    assert [n.name for n in found.removed] == [f"{r}_{i}" for i in "01" for r in "qkvo"]
    assert [c.after.name for c in found.changed[:3]] == ["turned_0", "view_0", "attention_0"]
    assert found.counts == {"added": 12, "removed": 8, "changed": 8, "unchanged": 8}


def test_a_changed_node_says_which_source_changed_and_no_other() -> None:
    one = recording()
    found = difference(one.stage("assign-roles"), one.stage("fuse"))
    assert list(map(str, found.changed[0].fields)) == ["sources: x=q_0 -> x=low_q_0"]


def test_a_role_and_a_site_are_a_change() -> None:
    one = recording()
    found = difference(one.stage("capture"), one.stage("assign-roles"))
    assert found.counts == {"added": 0, "removed": 0, "changed": 9, "unchanged": 15}
    assert list(map(str, found.changed[0].fields)) == [
        "role: nothing -> q",
        "site: nothing -> model.layers.0.q_proj",
        "part: nothing -> linear",
    ]


def test_who_made_a_node_and_what_it_costs_is_no_change() -> None:
    before = Node("n", "aten.add", "m")
    after = Node(
        "n", "aten.add", "o", linear="l", made_by="x", made_from=("y",), flops=1.0, bytes=1
    )
    assert changes(before, after) == ()


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("operator", "aten.mul", "operator: aten.add -> aten.mul"),
        ("sources", (Source("b", 0, "x"), Source("a", 0, "x")), "sources: x=a, x=b -> x=b, x=a"),
        ("sources", (Source("a", 1, "x"), Source("b", 0, "x")), "sources: x=a -> x=a:1"),
        ("arguments", (("bits", "4"),), "arguments: bits=8 -> bits=4"),
        ("tensors", (), "tensors: w=m.w f32[2] -> nothing"),
        ("outputs", ("f32[B]", "f32[B]"), "outputs: f32[B] -> f32[B], f32[B]"),
        ("bits", "w4", "bits: nothing -> w4"),
        ("role", "q", "role: nothing -> q"),
        ("site", "m.q", "site: nothing -> m.q"),
        ("part", "linear", "part: nothing -> linear"),
    ],
)
def test_every_field_is_compared_and_told(field: str, value: object, text: str) -> None:
    before = Node(
        *("n", "aten.add", "m", (Source("a", 0, "x"), Source("b", 0, "x")), ("f32[B]",)),
        tensors=(("w", "m.w", "f32[2]"),),
        arguments=(("bits", "8"),),
    )
    after = dataclasses.replace(before, **{field: value})  # type: ignore[arg-type]
    assert list(map(str, changes(before, after))) == [text]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("capture..fuse", ("capture", "fuse")),
        ("fuse..capture", ("fuse", "capture")),
        (" assign-roles .. fuse ", ("assign-roles", "fuse")),
        ("..assign-roles", ("capture", "assign-roles")),
        ("assign-roles..", ("assign-roles", "fuse")),
        ("fuse", ("assign-roles", "fuse")),
        ("capture", ("capture", "capture")),
        ("capture..fuse{form=plain}", ("capture", "fuse")),
    ],
)
def test_ranges(text: str, names: tuple[str, str]) -> None:
    before, after = parse_range(text, recording())
    assert (before.name, after.name) == names


@pytest.mark.parametrize("text", ["", "..", "a..b..c", "capture..fuse..fuse"])
def test_what_is_no_range_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(InputError, match="no range of stages") as refused:
        parse_range(text, recording())
    assert "capture..fuse" in str(refused.value)


def test_an_unknown_stage_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'fuse'"):
        raise_text("capture..fusee")


def raise_text(text: str) -> None:
    """Puts all of a refusal into what pytest matches."""
    try:
        parse_range(text, recording())
    except InputError as error:
        raise InputError(str(error)) from error
