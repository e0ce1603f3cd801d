"""Renderings for the terminal, as text that a person reviewed, at 80 and at 160 columns.

``UPDATE_GOLDEN=1 pytest tests/inspection/test_terminal.py`` writes the files anew; read the diff before committing it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from starquant_fx.errors import InputError
from starquant_fx.inspection import analysis, terminal, wording
from starquant_fx.inspection.difference import difference, parse_range
from starquant_fx.inspection.recording import Recording
from starquant_fx.inspection.tables import Column, FittedTable
from tests.inspection.small import HOSTILE, hostile, recording

FOLDER = Path(__file__).parent / "golden"
WIDTHS = (80, 160)
VIEWS: dict[str, Callable[[Recording], RenderableType]] = {
    "timeline": terminal.timeline,
    "tree": lambda one: terminal.tree(one.last),
    "tree-all": lambda one: terminal.tree(one.last, all=True, nodes=True),
    "stage": lambda one: terminal.stage(one, "fuse"),
    "sites": lambda one: terminal.sites(one, "error"),
    "site": lambda one: terminal.site(one, "layers.0.k_proj"),
    "site-before": lambda one: terminal.site(one, "head_proj", "capture"),
    "difference": lambda one: terminal.difference(
        difference(*parse_range("assign-roles..fuse", one))
    ),
    "difference-all": lambda one: terminal.difference(
        difference(*parse_range("fuse", one)), all=True
    ),
    "critical-path": lambda one: terminal.critical_path(analysis.critical_path(one.last)),
    "critical-path-all": lambda one: terminal.critical_path(
        analysis.critical_path(one.last, "cpu"), all=True
    ),
    "precision-path": lambda one: terminal.precision_path(analysis.precision_path(one)),
    "high-precision": lambda one: terminal.high_precision(analysis.high_precision(one)),
    "boundaries": lambda one: terminal.boundaries(analysis.boundaries(one), one.last.name),
}


def printed(view: RenderableType, width: int, colours: bool = False) -> str:
    text = io.StringIO()
    console = Console(
        file=text,
        width=width,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
        legacy_windows=False,
    )
    console.print(view)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_view(view: str, width: int) -> None:
    text = printed(VIEWS[view](recording()), width)
    file = FOLDER / f"{view}-{width}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_every_golden_file_is_compared() -> None:
    compared = {f"{view}-{width}" for view in VIEWS for width in WIDTHS}
    assert {file.stem for file in FOLDER.glob("*.txt")} == compared


@pytest.mark.parametrize("view", VIEWS)
def test_no_line_is_wider_than_the_terminal(view: str) -> None:
    for width in (60, 80, 100, 160):
        lines = printed(VIEWS[view](recording()), width).splitlines()
        assert max(map(cell_len, lines)) <= width


HOSTILE_VIEWS = {
    name: view
    for name, view in VIEWS.items()
    if name not in ("site", "site-before", "difference-all")
}


@pytest.mark.parametrize("view", HOSTILE_VIEWS)
def test_names_are_neither_markup_nor_control_characters(view: str) -> None:
    one = hostile()
    text = printed(HOSTILE_VIEWS[view](one), 4000)
    assert "\x1b" not in text
    if view not in ("sites", "boundaries", "high-precision", "critical-path"):
        assert "[red]" in text
        assert "\\x1b[31m" in text


def test_bits_have_the_colour_of_the_fewest() -> None:
    for bits, code in ((8, "\x1b[33mw4a8"), (4, "\x1b[33mw4a4"), (2, "\x1b[31mw4a2")):
        assert code in printed(terminal.tree(recording(bits=bits).last), 160, colours=True)


def test_alike_layers_are_one_line_unless_all_are_wanted() -> None:
    one = recording()
    folded = printed(terminal.tree(one.last), 160)
    assert "layers.0 … layers.1 (2 alike)" in folded
    every = printed(terminal.tree(one.last, all=True), 160)
    assert "alike" not in every
    assert every.count("q_proj") == 2


def test_a_layer_of_other_bits_is_not_alike() -> None:
    one, other = recording(), recording(bits=8)
    nodes = {
        name: node for name, node in one.last.nodes.items() if "layers.1" not in node.module
    } | {name: node for name, node in other.last.nodes.items() if "layers.1" in node.module}
    last = one.last
    mixed = type(last)(last.name, last.text, last.preserves, last.seconds, last.notes, nodes)
    assert "alike" not in printed(terminal.tree(mixed), 160)


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("", "layers.0.q_proj"),
        ("name", "head_proj"),
        ("error", "layers.1.o_proj"),
        ("sqnr", "layers.1.o_proj"),
        ("bytes", "head_proj"),
        ("flops", "layers.0.q_proj"),
        ("bits", "layers.0.q_proj"),
    ],
)
def test_sites_are_sorted(sort: str, first: str) -> None:
    rows = printed(terminal.sites(recording(), sort), 160).splitlines()
    assert rows[3].startswith(first)


def test_a_number_in_a_name_is_sorted_by_its_value() -> None:
    key = terminal.SORTS["name"]
    one = recording().sites["model.head_proj"]
    names = [type(one)(f"layers.{n}.o", (), (), 1, ()) for n in (10, 9, 2)]
    assert [s.name for s in sorted(names, key=key)] == ["layers.2.o", "layers.9.o", "layers.10.o"]


def test_an_unknown_sort_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError) as refused:
        terminal.sites(recording(), "errors")
    assert "did you mean 'error'?" in str(refused.value)


def test_errors_that_were_not_measured_are_said_to_be_missing() -> None:
    one = recording(measured=False)
    assert "errors were not measured" in printed(terminal.sites(one), 80)
    assert "no measured error of 4 quantized sites" in printed(
        terminal.precision_path(analysis.precision_path(one)), 80
    )


def test_a_table_leaves_out_columns_instead_of_cutting_numbers() -> None:
    columns = [Column("name", least=4), Column("number"), Column("more", rank=1)]
    table = FittedTable(columns, [["abcdefgh", "1234567890", "9876543210"]])
    wide, narrow = printed(table, 40), printed(table, 20)
    assert "9876543210" in wide
    assert "too narrow" not in wide
    assert "1234567890" in narrow
    assert "too narrow for: more" in narrow
    assert "98765" not in narrow


def test_a_column_that_says_nothing_is_left_out_silently() -> None:
    columns = [Column("name", least=4), Column("gates", rank=1)]
    text = printed(FittedTable(columns, [["a", "-"], ["b", ""]]), 80)
    assert "gates" not in text


def test_a_hostile_name_keeps_a_table_in_one_line() -> None:
    text = printed(FittedTable([Column("name", least=4)], [[HOSTILE.replace("\n", "")]]), 200)
    assert len(text.splitlines()) == 3


def test_names_are_sorted_by_their_numbers_however_long() -> None:
    names = ["a.10", "a.9", "b", f"a.{'1' * 5000}"]
    assert sorted(names, key=wording.natural) == ["a.9", "a.10", f"a.{'1' * 5000}", "b"]


@pytest.mark.parametrize(
    ("error", "sqnr"),
    [(None, "-"), (math.nan, "-"), (-0.5, "-"), (0.0, "inf"), (math.inf, "-inf"), (0.01, "20.0")],
)
def test_sqnr_is_told_where_it_is_one(error: float | None, sqnr: str) -> None:
    site = dataclasses.replace(next(iter(recording().sites.values())), error=error)
    assert wording.decibels(site.sqnr) == sqnr


@pytest.mark.parametrize("key", ["error", "sqnr"])
def test_what_is_no_number_is_the_worst(key: str) -> None:
    one = recording()
    worst = dataclasses.replace(one.sites["model.layers.0.o_proj"], error=math.nan)
    found = dataclasses.replace(one, sites={**one.sites, worst.name: worst})
    order = sorted(found.sites.values(), key=terminal.SORTS[key])
    assert [s.name.removeprefix("model.layers.") for s in order] == [
        *("0.o_proj", "1.o_proj", "1.q_proj", "0.q_proj"),
        "model.head_proj",
    ]
