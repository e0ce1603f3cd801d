"""What all tests need. Triton kernels are interpreted: it decides so when it is imported, which any test may do."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.commands import Here

os.environ.setdefault("TRITON_INTERPRET", "1")
gc.set_threshold(50_000)
"""Traces make objects by the million, and looking for garbage among them so often takes a sixth of the time."""


@pytest.fixture(scope="session", autouse=True)
def _shared_captures() -> Iterator[None]:
    """Models of one structure are exported once; see ``captures_anew``."""
    from starquant_fx import capture
    from tests.shared_captures import sharing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "_traced", sharing(capture._traced))
        yield


@pytest.fixture(scope="session", autouse=True)
def _frozen_modules() -> Iterator[None]:
    """What was imported so far is not gone through whenever garbage is collected."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _quick_libraries() -> Iterator[None]:
    """What Triton's interpreter and torch's exporter to ONNX do at every call, they do once."""
    from tests.shared_registries import share_registries
    from tests.triton_interpreter import replaces_once

    with pytest.MonkeyPatch.context() as patch:
        replaces_once(patch)
        share_registries(patch)
        yield


@pytest.fixture
def captures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is exported, as it is outside of tests."""
    from starquant_fx import capture

    monkeypatch.setattr(capture, "_traced", capture._traced.__wrapped__)  # type: ignore[attr-defined]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs a command of the command line in this process; gives exit status, output and errors."""
    from tests.commands import runs_here

    return runs_here(monkeypatch, capsys)
