"""A headless browser without a network, for tests of pages with brain maps: what it shows, and what it asks for."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

_FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip

T = TypeVar("T")
PATIENCE = 300  # seconds; only ends a test that would otherwise wait for ever

# plotly draws in animation frames: what was asked for shows after two, once the chart has the size of its place.
_SETTLED = """
const done = arguments[arguments.length - 1], chart = document.getElementById("brain");
(function wait() {
  const layout = chart?._fullLayout;
  if (!layout?.scene?._scene?.glplot || Math.abs(layout.width - chart.clientWidth) > 1) return setTimeout(wait, 30);
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100)));
})();
"""
# plotly takes a click for one when no second one has come in time. Timers of a page go off in order.
_CLICKED = "setTimeout(arguments[0], chart._context.doubleClickDelay + 1)"


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium or Chrome, driven by selenium; the test is skipped where one of them is missing or WebGL does not work.

    The variables CHROME_BIN and CHROMEDRIVER name other programs than those in the path.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.common.exceptions import WebDriverException

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = os.environ.get("CHROME_BIN") or next(filter(None, map(shutil.which, names)), None)
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    os.environ["SE_OFFLINE"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        session = webdriver.Chrome(service=webdriver.ChromeService(driver), options=options)
    except WebDriverException as error:
        pytest.skip(f"no browser could be started: {(error.msg or '').splitlines()[0]}")
    try:
        if not session.execute_script("return Boolean(document.createElement('canvas').getContext('webgl2'))"):
            pytest.skip("the browser has no WebGL")
        session.set_script_timeout(PATIENCE)
        session.set_page_load_timeout(PATIENCE)
        session.command_executor.client_config.timeout = 2 * PATIENCE
        yield Browser(session)
    finally:
        session.quit()


class Browser:
    """A page in the browser, as its reader sees and uses it; positions are pixels from the upper left corner."""

    def __init__(self, driver) -> None:
        self.driver = driver
        self._errors: list[str] = []
        self._events: list[dict] = []

    def open(self, path: Path, *, width: int = 1400, height: int = 820) -> None:
        """Show a file in a window of this size; only what happens from here on is in the logs."""
        self.resize(width, height)
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self._errors, self._events = [], []
        self.driver.get(Path(path).as_uri())

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.until(lambda: self.run("return [innerWidth, innerHeight]") == [width, height])

    def until(self, found: Callable[[], T]) -> T:
        """Wait until this is true, however long that takes on a busy machine; returns what it is then."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.driver, PATIENCE, 0.05, [StaleElementReferenceException])
        return wait.until(lambda _: found())

    def settle(self) -> None:
        """Wait until the map is drawn."""
        self.driver.execute_async_script(_SETTLED)

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def errors(self) -> list[str]:
        """Errors in the console since the page was opened."""
        self._errors += [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return self._errors

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened, without data that it carries itself."""
        self._events += [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in self._events if event["method"] == "Network.requestWillBeSent"]
        urls = [event["request"]["url"] for event in sent]
        urls += [event["params"]["url"] for event in self._events if event["method"] == "Network.webSocketCreated"]
        return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]

    def pixels(self) -> np.ndarray:
        """The window as it is, (height, width, 3), as integers that can be subtracted."""
        from PIL import Image

        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), dtype=np.int16)

    def settle_nilearn(self) -> None:
        """Wait until nilearn's viewers, each in a frame of its own, fill it with their plots."""
        for number in range(len(self.find("iframe"))):
            self.driver.switch_to.frame(number)
            self.until(lambda: self.run("return document.querySelector('canvas')?.width > 300"))
            self.driver.switch_to.default_content()

    def point(self, x: int, y: int) -> None:
        """Move the mouse to a position, from the side, as only a movement brings up what hovering shows."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        for step in (3, 0):
            action = ActionBuilder(self.driver)
            action.pointer_action.move_to_location(int(x) + step, int(y))
            action.perform()
            self.settle()

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        action = ActionBuilder(self.driver)
        action.pointer_action.move_to_location(*start)
        action.pointer_action.pointer_down()
        for x, y in np.linspace(start, end, 6).astype(int):
            action.pointer_action.move_to_location(int(x), int(y))
            action.pointer_action.pause(0.05)
        action.pointer_action.pointer_up()
        action.perform()
        self.settle()

    def click(self, element, *, double: bool = False) -> None:
        """Click with the mouse, which parts of a drawing understand too."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver)
        if double:  # however long the second click takes
            usual = self.run("return chart._context.doubleClickDelay")
            self.run("chart._context.doubleClickDelay = 1000 * arguments[0]", PATIENCE)
            actions.double_click(element).perform()
            self.run("chart._context.doubleClickDelay = arguments[0]", usual)
        else:
            actions.click(element).perform()
            self.driver.execute_async_script(_CLICKED)
        self.settle()
