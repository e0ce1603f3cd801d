import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RunPython = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Runs a piece of code in a fresh interpreter in a folder."""

    def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
        )

    return run
