from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import checkpoints


@pytest.fixture(autouse=True)
def _no_garbage_between_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two parts a run collects garbage, which takes a second where a thousand tests have left their objects."""
    monkeypatch.setattr("starquant_fx.streaming.part.give_back", lambda: None)


@pytest.fixture(scope="session")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LLaDA of two blocks, in two shards."""
    return checkpoints.write_llada(tmp_path_factory.mktemp("source") / "llada", shards=2)[0]


@pytest.fixture(scope="session")
def dream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Dream of two layers."""
    folder = tmp_path_factory.mktemp("source") / "dream"
    checkpoints.write_dream(folder)
    return folder
