from __future__ import annotations

from pathlib import Path

import pytest
from step import MEASURED, main

from starquant_fx.evaluation import step_time


@pytest.mark.slow
def test_every_part_of_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--model", "2x128", "--length", "24", "--steps", "3", "--rounds", "1"]
    assert main([*sizes, "--keep", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("### ") == len(MEASURED)
    for part in (step_time.NETWORK, *step_time.OUTSIDE, "step"):
        assert out.count(f"| {part} |") == len(MEASURED)
    assert {"2x128"} == {path.name for path in tmp_path.iterdir()}


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "3x7"]) == 2
    assert "unknown model" in capsys.readouterr().err
