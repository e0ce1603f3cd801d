from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import starquant_fx
from starquant_fx.integrations.hugging_face.full_precision import save_full_precision
from tests import compile_cases, small_models

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a full-precision folder of a kind of small model; not to be written into."""
    place = tmp_path_factory.mktemp("full")

    def folder(kind: str) -> Path:
        path = place / kind
        if not path.is_dir():
            if kind == "odd":
                save_full_precision(small_models.model(kind), path, None, 10**9, False)
            else:
                path.mkdir()
                for name in ("config.json", "model.safetensors"):
                    shutil.copy(GOLDENS / kind / name, path)
        return path

    return folder


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a packed checkpoint of a kind of small model; not to be written into."""
    place = tmp_path_factory.mktemp("packed")

    def folder(kind: str) -> Path:
        path = place / kind
        if not path.is_dir():
            compile_cases.compiled(kind, "rtn-w4a4").save(path)
        return path

    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped LLaDA in ``rtn-w4a4`` with its tokenizer, as a packed checkpoint."""
    model, tokenizer = starquant_fx.from_pretrained("llada-tiny")
    compiled = starquant_fx.compile(model, compile_cases.small("rtn-w4a4"))
    return compiled.save(tmp_path_factory.mktemp("tiny") / "llada-w4a4", tokenizer=tokenizer)


@pytest.fixture
def fresh_python(tmp_path: Path) -> Callable[[str], str]:
    """Runs a piece of code in a fresh interpreter and gives what it prints; warnings of ours are errors."""

    def run(code: str) -> str:
        strict = ["-W", "error:starquant_fx could not register:UserWarning"]
        done = subprocess.run(
            [sys.executable, *strict, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
