from __future__ import annotations

import io

import pytest
from rich.console import Console

from starquant_fx.cli.demo import side_by_side

TEXTS = {"full precision": "a " * 60, "rtn-w4a4": "b " * 60, "star-w4a4": "c " * 60}


@pytest.mark.parametrize(("width", "beside"), [(80, True), (120, True), (60, True), (59, False)])
def test_texts_stand_beside_each_other_where_they_fit(width: int, beside: bool) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(side_by_side(TEXTS, width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert all(title in lines[0] for title in TEXTS) == beside
    assert any({"a", "b", "c"} <= set(line) for line in lines) == beside
    for letter in "abc":
        assert sum(line.count(f"{letter} ") for line in lines[1:-1]) == 60
