from __future__ import annotations

import pytest

from structures import STRUCTURES, main


def test_a_row_for_each_width_and_structure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--widths", "8,32", "--tokens", "4", "--repeats", "1"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [int(row[1]) for row in rows] == [8] * len(STRUCTURES) + [32] * len(STRUCTURES)
    assert float(rows[0][3]) == 1.0  # a dense basis is a linear of its own
    assert all(float(row[4]) > 0 for row in rows)
