"""Exports that the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.export.small import Exports


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Writes exports, each once."""
    return Exports(tmp_path_factory.mktemp("exports"))
