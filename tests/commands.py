"""The command line within the tests' own process, which has imported already what takes a command seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from starquant_fx.cli import main

Here = Callable[..., tuple[object, str, str]]
"""Runs a command with these arguments; gives its exit status and what it printed, and what it printed as an error."""


def runs_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """What the fixture ``here`` is."""

    def call(*arguments: str | Path) -> tuple[object, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["starquant-fx", *map(str, arguments)])
            patch.setenv("COLUMNS", "120")
            with pytest.raises(SystemExit) as left:
                main()
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    return call
