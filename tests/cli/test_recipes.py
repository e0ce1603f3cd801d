from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from starquant_fx.cli.app import app
from starquant_fx.errors import InputError, RecipeError
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


def test_an_extra_does_not_change_whose_source_is_shown() -> None:
    plain, extended = shown("dllmquant+"), shown("dllmquant++center")  # DLLMQuant+ with centring
    source = plain[: plain.index("dllmquant+-w4a4:")]
    assert extended.startswith(source)


def test_every_baseline_names_its_source() -> None:
    own = {"rtn", "sgat", "star", "star-paper"}
    for method in set(METHODS) - own:
        assert re.search(r"\d{4}\.\d{5}", METHODS[method].__doc__ or ""), method  # arXiv


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="quarot"):
        shown("quarto")


def test_what_is_printed_as_json_is_read_back_from_a_file(tmp_path: Path) -> None:
    values = json.loads(shown("quarot-w4a8", "--json"))
    values["calibration"].update(samples=8, strata=[0.5, 0.5])
    values["method"] = "mine"
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(values))
    recipe = get_recipe(str(file))
    assert recipe.passes == get_recipe("quarot-w4a8").passes
    assert (recipe.calibration.samples, recipe.calibration.strata) == (8, (0.5, 0.5))
    assert shown(str(file)).startswith("mine-w4a8:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "holds no recipe"),
        ('{"passs": []}', "unknown recipe key"),
        ('{"method": "x"}', "lacks"),
    ],
)
def test_a_file_that_holds_no_recipe_is_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "bad.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        get_recipe(str(file))
    assert str(file) in str(caught.value)


def test_json_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="--json"):
        shown("--json")
