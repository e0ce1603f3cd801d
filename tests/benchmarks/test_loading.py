"""What the time of the first load is, in both benchmarks of processes: loading, and no imports."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cpu_suite.served import Served
from cpu_suite.specs import MODELS, Place, Shape
from cpu_suite.variants import Variant
from onnx_suite.served import open_session
from starquant_fx.errors import CheckpointError
from tests.runtime.exports import write_export
from tests.runtime.fakes import ArrayDenoiser

SLOW = 0.5


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, MODELS["2x128"], 1)


def test_imports_are_no_part_of_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = SimpleNamespace(forward=lambda ids, rows: ids, weight_bytes=0, head="", note=str)

    def imported(self: Variant) -> Any:
        time.sleep(SLOW)
        return SimpleNamespace(build=lambda place: runner)

    monkeypatch.setattr(Variant, "load", imported)
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        found = Served(Variant("x", "peer", "x"), place).ready(False, Shape(1, 4))
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
    assert 0 < found["load_seconds"] < SLOW


def test_our_exports_are_loaded_as_users_load_them(place: Place) -> None:
    folder = write_export(place.folder / "ours-onnx", ArrayDenoiser(), masked=False)
    session = open_session(place, "ours")
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.run(None, {"input_ids": np.array([[1, 2]])})[0].shape == (1, 2, 12)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has changed"):
        open_session(place, "ours")
    (folder / "starquant.json").unlink()
    assert open_session(place, "ours").get_inputs()[0].name == "input_ids"
