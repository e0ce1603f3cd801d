from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from starquant_fx.cli.app import app
from starquant_fx.errors import RecipeError
from starquant_fx.methods import EXTRAS, METHODS
from starquant_fx.recipes import get_recipe


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["recipes", *arguments])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_every_method_and_extra_is_listed_with_what_it_is() -> None:
    lines = shown().splitlines()
    for method in METHODS:
        (line,) = (text for text in lines if text.split() and text.split()[0] == method)
        assert len(line.split()) > 4
    assert [text.split()[0] for text in lines if text.startswith("  +")] == [
        f"+{e}" for e in EXTRAS
    ]


@pytest.mark.parametrize("name", ["quarot", "dllmquant++", "gptq+center-w3a8", "star-paper-w4a4"])
def test_one_recipe_with_its_source_and_passes(name: str) -> None:
    text = shown(name)
    recipe = get_recipe(name if "-w" in name else f"{name}-w4a4")
    assert f"{recipe.name}:" in text
    assert all(f"  {one}" in text for one in recipe.passes)


def test_every_baseline_names_its_source() -> None:
    own = {"rtn", "sgat", "star", "star-paper"}
    for method in set(METHODS) - own:
        assert re.search(r"\d{4}\.\d{5}", METHODS[method].__doc__ or ""), method  # arXiv


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="quarot"):
        shown("quarto")
