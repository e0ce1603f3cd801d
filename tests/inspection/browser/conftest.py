"""Chromium without a window, and pages opened in it from files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inspection.browser.viewer import Viewer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    pytest.importorskip("selenium", reason="selenium is not installed (extra `dev`)")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None:
        pytest.skip("no Chromium is installed")
    if driver is None:
        pytest.skip("no chromedriver is installed (Debian: chromium-driver)")
    viewer = Viewer(Path(browser), Path(driver), tmp_path_factory.mktemp("pages"))
    yield viewer
    viewer.quit()


@pytest.fixture
def viewer(session: Viewer) -> Iterator[Viewer]:
    """A browser of 1280 x 800; the console must be empty at the end."""
    session.resize(1280, 800)
    session.prefer("light")
    yield session
    assert session.complaints() == []
