"""The benchmark of single CPU kernels, on sizes that take no time."""

from __future__ import annotations

import pytest

import cpu_parts
from starquant_fx.kernels import cpu


@pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
def test_a_line_for_every_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu_parts, "TOKENS", (1, 3))
    monkeypatch.setattr(cpu_parts, "SIZES", ((64, 64),))
    assert cpu_parts.main(["--repeats", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 2 + 1 + 2
    assert all("nan" not in line for line in lines)


def test_a_machine_without_the_kernels_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "unavailable", lambda: "there is no C++ compiler")
    assert cpu_parts.main([]) == 2
    assert "there is no C++ compiler" in capsys.readouterr().err
