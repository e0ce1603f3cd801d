"""Loading and generating where torch and transformers cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from starquant_fx import runtime
from tests.runtime.exports import write_export
from tests.runtime.fakes import ArrayDenoiser

ROOT = Path(__file__).parents[2]
# What a program runs with: nothing but what the runtime needs can be imported.
GUARD = """
import sys

class Guard:
    REFUSED = {refused!r}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.REFUSED:
            raise ModuleNotFoundError(f"refused: {{name}}", name=name)

sys.meta_path.insert(0, Guard())
"""
CHECK = """
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & set(Guard.REFUSED), loaded & set(Guard.REFUSED)
"""
REFUSED = (
    "torch",
    "transformers",
    "triton",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "safetensors",
    "huggingface_hub",
    "scipy",
)
INTERFACE = ("typer", "rich", "click")


def python(code: str, refused: tuple[str, ...], *arguments: str) -> str:
    """Runs a program in a fresh interpreter; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", GUARD.format(refused=refused) + code + CHECK, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LIBRARY = """
from starquant_fx import runtime
model = runtime.load(sys.argv[1])
steps = []
ids = model.generate("one two three", seed=1, temperature=0.5, on_step=lambda step, *rest: steps.append(step),
                     **{"steps": 4, **({"max_new_tokens": 8} if model.metadata.sampler == "dream" else
                                       {"gen_length": 8, "block_length": 4})})
assert steps == [1, 2, 3, 4]
print(ids.tolist())
"""


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_the_library_needs_no_torch(tmp_path: Path, kind: str) -> None:
    folder = write_export(tmp_path, ArrayDenoiser(kind), external=True)
    out = python(LIBRARY, REFUSED + INTERFACE, str(folder))
    length = {"max_new_tokens": 8} if kind == "Dream" else {"gen_length": 8, "block_length": 4}
    options: dict[str, Any] = {"steps": 4, "temperature": 0.5, **length}
    expected = runtime.load(folder).generate("one two three", seed=1, **options)
    assert out.strip() == str(expected.tolist())


COMMAND = """
from starquant_fx.cli import main
sys.argv = ["starquant-fx", "generate", "--onnx", sys.argv[1], "-p", "one two three", "-n", "8", "-s", "4"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


@pytest.mark.parametrize("head", ["row-logits", "tokens"])
@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_the_command_needs_no_torch(tmp_path: Path, kind: str, head: str) -> None:
    folder = write_export(tmp_path, ArrayDenoiser(kind), head=head)
    assert python(COMMAND, REFUSED, str(folder)).startswith("one two three ")


EXAMPLE = """
import runpy
sys.argv = [sys.argv[1], *sys.argv[2:]]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
"""


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_the_example_needs_no_torch(tmp_path: Path, kind: str) -> None:
    folder = write_export(tmp_path, ArrayDenoiser(kind), head="tokens")
    script = str(ROOT / "examples" / "onnx_generate.py")
    arguments = (script, str(folder), "one two three", "--length", "8", "--steps", "4")
    assert python(EXAMPLE, REFUSED + INTERFACE, *arguments).startswith("one two three ")
