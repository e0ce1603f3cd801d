"""Regular expressions of recipes that could take forever are refused."""

from __future__ import annotations

import pytest

from starquant_fx.errors import RecipeError
from starquant_fx.patterns import LONGEST, check_pattern


@pytest.mark.parametrize(
    "text",
    [
        r".*down_proj",
        r".*layers\.[0-3]\..*",
        r".*\.(q|k|v)_proj",
        r"model\.layers\.\d+\.mlp\.(?:up|gate)_proj",
        r"(?i).*MLP.*",
        r".*blocks\.1?\d\..*",
        r"[*+?{(]*",
        r"[]*]x",
        r"[^]*]x",
        r"a\*\+\?\{\(b\)\*",
    ],
)
def test_what_recipes_use_is_taken(text: str) -> None:
    check_pattern(text, f"re:{text}")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("(.+)+x", "a group that is repeated"),
        ("(?:.|.)*x", "a group that is repeated"),
        ("((a))*", "a group that is repeated"),
        ("(a){2,}", "a group that is repeated"),
        (".*" * 5, "5 repetitions"),
        ("a?" * 30 + "a" * 30, "30 repetitions"),
        (r"(.*)\1x", "a reference"),
        (r"(?P<a>.*)(?P=a)x", "a reference"),
        ("a" * (LONGEST + 1), f"{LONGEST + 1} characters"),
    ],
)
def test_what_could_take_forever_is_not(text: str, got: str) -> None:
    with pytest.raises(RecipeError, match="could take forever") as caught:
        check_pattern(text, f"re:{text}")
    assert got in str(caught.value)


@pytest.mark.parametrize("text", ["(", "[", "(" * 300, "a{99999999999}", "*", r"\8"])
def test_what_is_malformed(text: str) -> None:
    with pytest.raises(RecipeError, match="malformed regular expression"):
        check_pattern(text, f"re:{text}")
