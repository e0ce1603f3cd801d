"""A page in Chromium: what a user does with it, and what is seen."""

import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starquant_fx.inspection.page import to_html
from starquant_fx.inspection.recording import Recording

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement

Box = tuple[int, int, int, int]
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1280,800",
)


class Viewer:
    """Drives one browser, page after page."""

    def __init__(self, browser: Path, driver: Path, folder: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = str(browser)
        for argument in ARGUMENTS:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(str(driver))
        self.driver = webdriver.Chrome(options=options, service=service)
        self._folder = folder

    def quit(self) -> None:
        self.driver.quit()

    def open(self, recording: Recording) -> None:
        """Opens a recording's page from a file, and waits until it is ready."""
        self.load(recording)
        self.wait("return document.documentElement.dataset.ready === 'true'")

    def load(self, recording: Recording) -> None:
        """Opens a recording's page without waiting."""
        path = self._folder / "page.html"
        path.write_text(to_html(recording), encoding="utf-8")
        self.complaints()
        self.driver.get(path.as_uri())

    def wait(self, script: str, seconds: float = 20) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.05).until(lambda _: self.run(script))

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What the console says, such as errors and what the policy forbade; it is empty then."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def resize(self, width: int, height: int) -> None:
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def find(self, selector: str) -> "WebElement":
        return self.driver.find_element("css selector", selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def color(self, selector: str, what: str = "fill") -> str:
        """A computed colour."""
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return str(self.run(script, selector, what))

    def press(self, *keys: str) -> None:
        """Keys go to what has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def select(self, group: str) -> None:
        """Clicks a group's box near its top, where nothing is drawn inside."""
        self._click(f'[data-group="{group}"] > .body', 0.9)

    def toggle(self, group: str) -> None:
        self.find(f'[data-group="{group}"] > .toggle > .target').click()

    def _click(self, selector: str, part: float) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        box = self.find(selector)
        width, height = box.size["width"], box.size["height"]
        across, down = int(width * (part - 0.5)), int(12 - height / 2)
        ActionChains(self.driver).move_to_element_with_offset(box, across, down).click().perform()

    def press_link(self, text: str) -> None:
        """Clicks the panel's first link with a text."""
        script = (
            "[...document.querySelectorAll('#panel .link')]"
            ".find(b => b.textContent === arguments[0]).click()"
        )
        self.run(script, text)

    def touch(self, kind: str, *points: tuple[int, int]) -> None:
        """Fingers at points of the screen."""
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        told = {"type": kind, "touchPoints": fingers}
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", told)

    def search(self, text: str) -> None:
        """Types into the field and presses Enter."""
        field = self.find("#search")
        field.clear()
        field.send_keys(text + "\ue007")

    def stage(self, index: int) -> None:
        """Moves the slider."""
        script = (
            "const slider = document.getElementById('stage-slider');"
            "slider.value = arguments[0]; slider.dispatchEvent(new Event('input'))"
        )
        self.run(script, index)

    def heat(self, kind: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find("#heat")).select_by_value(kind)

    def picture(self, box: Box | None = None) -> "Counter[Any]":
        """Colours of a screenshot, or of a part of it (left, top, right, bottom), and how often each is seen."""
        from PIL import Image

        image = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        part = image.crop(box) if box else image
        return Counter(dict((c, n) for n, c in part.getcolors(1 << 24) or []))

    def box(self, selector: str) -> Box:
        """Where an element is on the screen."""
        script = (
            "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [r.left, r.top, r.right, r.bottom].map(Math.round)"
        )
        left, top, right, bottom = self.run(script, selector)
        return left, top, right, bottom
