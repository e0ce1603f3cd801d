"""An error says what happened, where, what was expected, what was got, and what to do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from starquant_fx import errors

PARTS = {"where", "expected", "got", "hint"}
CLASSES = {name for name in vars(errors) if name.endswith("Error")}
COMPLETE = (
    "lowering",
    "starquant_fx/diffusion",
    "starquant_fx/models",
    "starquant_fx/api.py",
    "starquant_fx/arguments.py",
    "starquant_fx/artifact.py",
    "starquant_fx/artifact_checks.py",
    "starquant_fx/calibration/prepare.py",
    "starquant_fx/capture.py",
    "starquant_fx/checkpoint",
    "starquant_fx/cli/checkpoints.py",
    "starquant_fx/cli/compile.py",
    "starquant_fx/cli/convert.py",
    "starquant_fx/cli/export.py",
    "starquant_fx/cli/generate.py",
    "starquant_fx/cli/generate_onnx.py",
    "starquant_fx/cli/options.py",
    "starquant_fx/cli/passes.py",
    "starquant_fx/cli/streaming.py",
    "starquant_fx/compiled.py",
    "starquant_fx/export",
    "starquant_fx/files.py",
    "starquant_fx/folders",
    "starquant_fx/integrations/backend_options.py",
    "starquant_fx/integrations/dynamo_graph.py",
    "starquant_fx/integrations/hugging_face",
    "starquant_fx/integrations/parameter_watch.py",
    "starquant_fx/integrations/torch_compile.py",
    "starquant_fx/model_facts.py",
    "starquant_fx/patterns.py",
    "starquant_fx/recipe.py",
    "starquant_fx/recipes.py",
    "starquant_fx/runtime",
    "starquant_fx/sampling",
    "starquant_fx/streaming",
    "starquant_fx/structure.py",
    "tools",
)


def refusals(source: str) -> Iterator[tuple[int, set[str]]]:
    """Line and parts of every error that is made; ``**details`` may hold any part."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            given = {k.arg for k in node.keywords}
            if node.func.id in CLASSES and None not in given:
                yield node.lineno, {k for k in given if k}


@pytest.mark.parametrize("place", COMPLETE)
def test_every_refusal_has_all_parts(root: Path, place: str) -> None:
    at = root / place
    files = [at] if at.is_file() else sorted(at.rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(root)}:{line} lacks {', '.join(sorted(PARTS - parts))}"
        for path in files
        for line, parts in refusals(path.read_text())
        if not parts >= PARTS
    ]
    assert found == []


def test_a_refusal_without_a_part_is_found() -> None:
    source = 'raise InputError("no", where="x", expected="y", got="z")\nraise ValueError("mine")'
    assert list(refusals(source)) == [(1, {"where", "expected", "got"})]
