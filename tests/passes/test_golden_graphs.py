"""The graph of one attention block after chosen passes, as text that a person reviewed.

``UPDATE_GOLDEN=1 pytest tests/passes/test_golden_graphs.py`` writes the files anew; read the diff before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from starquant_fx.passes import Fuse
from tests.graph_text import block_text
from tests.small_programs import rewritten, site_of, until

FOLDER = Path(__file__).parent / "golden"
CASES = {
    ("llada", "star-w4a4"): (
        "assign-roles",
        "insert-partition",
        "insert-centering",
        "insert-sgat",
        "insert-quantizers",
        "fold-sgat",
        "insert-tac",
        "fuse",
        "fuse-partition",
    ),
    ("dream", "rtn-w4a8"): ("assign-roles", "fuse"),
}


def attention_block(kind: str, recipe: str, after: str) -> str:
    """The first attention block after a pass."""
    if after == "fuse-partition":
        program = rewritten(kind, (*until("insert-tac", recipe), Fuse(form="partition")), recipe)
    else:
        program = rewritten(kind, until(after, recipe), recipe)
    return block_text(program, site_of(program, "q"), site_of(program, "o"))


@pytest.mark.parametrize(
    ("kind", "recipe", "after"), [(k, r, p) for (k, r), after in CASES.items() for p in after]
)
def test_graph_of_one_attention_block(kind: str, recipe: str, after: str) -> None:
    text = attention_block(kind, recipe, after)
    file = FOLDER / f"{kind}-{recipe.partition('-')[0]}-{after}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_file_is_compared() -> None:
    compared = {f"{k}-{r.partition('-')[0]}-{p}" for (k, r), after in CASES.items() for p in after}
    assert {file.stem for file in FOLDER.glob("*.txt")} == compared
