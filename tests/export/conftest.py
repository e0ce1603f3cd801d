"""Exports that the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.export.small import Exports, built


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Writes exports, each once."""
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets exports of the same model and form share what ``build`` returns."""
    monkeypatch.setattr("starquant_fx.export.api.build", built)
