"""A new environment with nothing but numpy, onnxruntime and tokenizers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.runtime.exports import write_export
from tests.runtime.fakes import ArrayDenoiser

ROOT = Path(__file__).parents[2]
PACKAGES = ("numpy", "onnxruntime", "tokenizers")
INTERFACE = ("typer", "rich")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )


def install(folder: Path) -> Path:
    """Makes an environment; returns its interpreter. Skips where packages cannot be had."""
    python = folder / "bin" / "python"
    made = run(sys.executable, "-m", "venv", folder)
    if made.returncode:
        pytest.skip(f"no environment can be made: {made.stdout[-200:]}{made.stderr[-200:]}")
    wanted = [f"{name}=={version(name)}" for name in (*PACKAGES, *INTERFACE)]
    installed = run(python, "-m", "pip", "install", "-q", *wanted)
    if installed.returncode:
        pytest.skip(f"packages cannot be installed: {installed.stderr[-300:]}")
    return python


@pytest.mark.slow
def test_the_example_and_the_command_run_with_three_packages(tmp_path: Path) -> None:
    python = install(tmp_path / "environment")
    missing = run(python, "-c", "import torch")
    assert "No module named 'torch'" in missing.stderr
    for kind in ("llada", "Dream"):
        folder = write_export(tmp_path / kind, ArrayDenoiser(kind), external=True)
        counts = ("--length", "8", "--steps", "4")
        example = run(python, ROOT / "examples/onnx_generate.py", folder, "one two", *counts)
        assert example.returncode == 0, example.stderr
        assert example.stdout.startswith("one two ")
        command = ("-m", "starquant_fx", "generate", "--onnx", folder, "-p", "one two", *counts)
        done = run(python, *command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("one two ")
