#!/usr/bin/env python3
"""Makes the pictures of the inspector that the documents show, from a recording.

``starquant-fx inspect llada-tiny --json r.json && python tools/inspection_pictures.py r.json docs/pictures``

Needs Chromium with chromedriver, selenium (the extra ``figures``) and Graphviz.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from starquant_fx.errors import InputError, exit_code
from starquant_fx.files import write_atomically
from starquant_fx.inspection import drawing, page, terminal
from starquant_fx.inspection.collection import read_recording
from starquant_fx.inspection.recording import Recording

WIDTH, SIZE = 100, (1280, 800)
BLOCK = ".blocks.0"
"""Ends the path of the module whose inside is shown."""


def terminal_picture(recording: Recording) -> str:
    """The graph by module and the worst sites, as a terminal shows them."""
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(terminal.stage(recording, recording.last.name))
    console.print(terminal.sites(recording, "error"))
    title = f"starquant-fx inspect {recording.model} --stage {recording.last.name} --sort error"
    return console.export_svg(title=title, theme=DIMMED_MONOKAI)


def page_picture(recording: Recording) -> bytes:
    """The page in Chromium: a block expanded, coloured by error."""
    from selenium import webdriver

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise InputError(
            "the page's picture needs Chromium",
            where="chromium, chromedriver",
            expected="both on the path",
            got=f"{browser}, {driver}",
            hint="apt-get install chromium chromium-driver",
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page.to_html(recording), encoding="utf-8")
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            width, height = SIZE
            sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
            chrome.get(file.as_uri())
            while chrome.execute_script("return document.documentElement.dataset.ready") != "true":
                time.sleep(0.05)
            block = f'[data-group$="{BLOCK}"]'
            chrome.execute_script(
                "const heat = document.getElementById('heat'); heat.value = 'error';"
                "heat.dispatchEvent(new Event('change'));"
            )
            chrome.find_element("css selector", block).click()
            chrome.find_element("css selector", "body").send_keys("\n")
            time.sleep(1)
            return bytes(chrome.get_screenshot_as_png())
        finally:
            chrome.quit()


def run(arguments: argparse.Namespace) -> None:
    """Writes the pictures."""
    recording = read_recording(arguments.recording)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[], bytes | str]] = {
        "inspect-terminal.svg": lambda: terminal_picture(recording),
        "inspect-page.png": lambda: page_picture(recording),
        "inspect-block.svg": lambda: drawing.svg(drawing.before_after(recording)),
    }
    for name, make in pictures.items():
        write_atomically(folder / name, make())
        print(f"wrote {folder / name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recording", type=Path, help="what `inspect --json` wrote")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
