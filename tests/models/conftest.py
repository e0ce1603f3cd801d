from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import checkpoints


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound folders: a LLaDA in one file, a LLaDA in three shards, a Dream and a BERT."""
    root = tmp_path_factory.mktemp("originals")
    checkpoints.write_llada(root / "llada")
    checkpoints.write_llada(root / "shards", shards=3)
    checkpoints.write_dream(root / "dream")
    checkpoints.write_bert(root / "bert")
    checkpoints.write_tokenizer(root / "bert")
    return root


@pytest.fixture
def damaged(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of a sound folder to damage."""
    return lambda name: checkpoints.copy(originals / name, tmp_path / name)
