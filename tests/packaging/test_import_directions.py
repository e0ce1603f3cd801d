"""Imports point one way: kernels <- core <- passes, lowering <- the entry points; what works without torch stays so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# Modules that put the layers together; only they may import all of them.
ENTRY_POINTS = {
    "starquant_fx",
    "starquant_fx.__main__",
    "starquant_fx.api",
    "starquant_fx.artifact",
    "starquant_fx.checkpoint",
    "starquant_fx.cli",
    "starquant_fx.compiled",
    "starquant_fx.cost",
    "starquant_fx.export",
    "starquant_fx.inspection",
    "starquant_fx.integrations",
    "starquant_fx.methods",
    "starquant_fx.recipes",
    "starquant_fx.streaming",
}
# Core modules that work without torch.
PLAIN = {"starquant_fx.config_facts", "starquant_fx.sampling"}
# Layer -> layers it may import. CONTRIBUTING.md shows the same table.
ALLOWED = {
    "errors": {"errors"},
    "reference kernels": {"reference kernels", "errors"},
    "fast kernels": {"fast kernels", "reference kernels", "errors"},
    "plain core": {"plain core", "errors"},
    "runtime": {"runtime", "plain core", "errors"},
    "core": {"core", "plain core", "reference kernels", "errors"},
    "passes": {"passes", "core", "plain core", "reference kernels", "errors"},
    "lowering": {"lowering", "core", "plain core", "fast kernels", "reference kernels", "errors"},
    "entry points": {
        *("entry points", "lowering", "passes", "runtime", "core", "plain core"),
        *("fast kernels", "reference kernels", "errors"),
    },
}
# Layers that work where torch is not installed.
WITHOUT_TORCH = {"runtime", "plain core", "errors"}


def layer(module: str) -> str:
    """The layer that a module belongs to."""
    parts = module.split(".")
    if parts[1:2] == ["kernels"]:
        return "reference kernels" if parts[2:3] == ["reference"] else "fast kernels"
    if parts[1:2] in (["passes"], ["lowering"], ["runtime"], ["errors"]):
        return parts[1]
    top = ".".join(parts[:2])
    if top in PLAIN:
        return "plain core"
    return "entry points" if top in ENTRY_POINTS else "core"


def modules(root: Path) -> dict[str, Path]:
    """Every module of the product: import name -> file."""
    found = {}
    for folder in ("starquant_fx", "kernels", "lowering", "passes"):
        for path in (root / folder).rglob("*.py"):
            parts = list(path.relative_to(root).with_suffix("").parts)
            if parts[0] == "starquant_fx" and parts[1] in ("kernels", "lowering", "passes"):
                continue  # the same file again, through a link
            if parts[0] != "starquant_fx":
                parts.insert(0, "starquant_fx")
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = path
    return found


def imports(source: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Every module of the product that a source imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield node.lineno, member if member in known else str(node.module)


def violations(module: str, source: str, known: set[str]) -> list[str]:
    own = layer(module)
    return [
        f"{module}:{line} ({own}) imports {target} ({layer(target)})"
        for line, target in imports(source, known)
        if target.split(".")[0] == "starquant_fx" and layer(target) not in ALLOWED[own]
    ]


def test_every_import_points_the_allowed_way(root: Path) -> None:
    files = modules(root)
    assert {"starquant_fx.errors", "starquant_fx.passes", "starquant_fx.kernels"} <= set(files)
    found = [
        text
        for module, path in files.items()
        for text in violations(module, path.read_text(), set(files))
    ]
    assert not found, "\n".join(found)


def test_entry_points_exist(root: Path) -> None:
    assert set(modules(root)) >= ENTRY_POINTS | PLAIN


def test_what_works_without_torch_names_it_nowhere(root: Path) -> None:
    found = [
        f"{module}:{line} imports {target}"
        for module, path in modules(root).items()
        if layer(module) in WITHOUT_TORCH
        for line, target in imports(path.read_text(), set())
        if target.split(".")[0] in ("torch", "transformers", "safetensors", "onnx")
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("starquant_fx.kernels.cpu", "from starquant_fx.lowering import cpu"),
        ("starquant_fx.kernels.reference", "from starquant_fx import operators"),
        ("starquant_fx.passes.fuse", "def run():\n    import starquant_fx.lowering.cpu"),
        ("starquant_fx.passes.fuse", "from starquant_fx.kernels.triton import gemm"),
        ("starquant_fx.lowering.cpu", "from starquant_fx.passes.fuse import Fuse"),
        ("starquant_fx.program", "from starquant_fx import compile"),
        ("starquant_fx.runtime.llada", "from starquant_fx.operators import op"),
        ("starquant_fx.sampling.rules", "from starquant_fx.model_facts import check_ids"),
        ("starquant_fx.program", "if TYPE_CHECKING:\n    from starquant_fx.passes import fuse"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, source, {"starquant_fx.operators"})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("starquant_fx.operators", "from starquant_fx.kernels import reference"),
        ("starquant_fx.passes.fuse", "from starquant_fx.program import Program"),
        ("starquant_fx.lowering.cpu", "from starquant_fx.kernels.cpu import gemm"),
        ("starquant_fx.api", "def compile():\n    from starquant_fx.lowering import registry"),
        ("starquant_fx.kernels.cpu", "import torch\nfrom starquant_fx.errors import InputError"),
    ],
)
def test_a_right_import_is_accepted(module: str, source: str) -> None:
    assert violations(module, source, {"starquant_fx.kernels.reference"}) == []
