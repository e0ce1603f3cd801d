from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import compile_cases


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of one layer, in three shards."""
    compiled = compile_cases.compiled("odd", "rtn-w4a4")
    size = sum(t.nbytes for t in compiled.tensors().values())
    folder = tmp_path_factory.mktemp("sound") / "odd"
    compiled.save(folder, shard_bytes=size // 3 + 2000)
    assert len(list(folder.glob("*.safetensors"))) == 3
    return folder


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Callable[[], Path]:
    """Gives a copy of it to damage."""
    return lambda: Path(shutil.copytree(sound, tmp_path / "odd"))
