"""Headless Chromium, and the pictures of the page in docs/images.

PYTHONPATH=tests:. python -m browser docs/images        takes them anew: the digits, 8 sites with unlike data
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

from page_server import served
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from simulation import simulate

SOON_S = 60.0
NUM_POINTS = "return typeof figures === 'undefined' ? 0 : (figures['curve accuracy']?.series[0]?.x.length ?? 0)"
"""How many rounds the page's curve has."""


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile in that folder."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "needs chromium on PATH: apt install chromium chromium-driver (make test does)"
    assert driver, "needs chromedriver on PATH: apt install chromium chromium-driver (make test does)"
    options = Options()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def show(browser: webdriver.Chrome, url: str, *, width: int, height: int, scheme: str = "light") -> None:
    """Opens a page in a window of that size, for a reader who likes it light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")  # what the page before says once its server is gone is not about this one
    browser.get_log("browser")
    browser.get(url)


def wait_for(claim: Callable[[], object], browser: webdriver.Chrome) -> None:
    deadline = time.monotonic() + SOON_S
    while not claim():
        assert time.monotonic() < deadline, browser.page_source
        time.sleep(0.05)


_LABELS = """
return [...document.querySelectorAll("[data-figure], #window, .tiles")].flatMap((figure) => {
  const labels = [...figure.querySelectorAll("svg text, .legend > *, .tile > *, button, input")].map((each) => {
    const { left, right, top, bottom } = each.getBoundingClientRect();
    return [each.textContent || each.value, left, right, top, bottom];
  });
  return [labels.filter(([text, left, right]) => text && right > left)];
});
"""
_TOUCH_PX = 1.5


def overlapping_labels(browser: webdriver.Chrome) -> list[tuple[str, str]]:
    """The labels and numbers that run into each other on the page, in pairs; or out of it, with ``the edge``."""
    width = browser.execute_script("return document.documentElement.clientWidth")
    groups = browser.execute_script(_LABELS)
    assert sum(len(group) for group in groups) > 20, groups
    beyond = [(each[0], "the edge") for group in groups for each in group if each[1] < 0 or each[2] > width]
    return beyond + [
        (one[0], other[0]) for group in groups for one, other in combinations(group, 2) if _overlap(one, other)
    ]


def _overlap(one: list[Any], other: list[Any]) -> bool:
    across = min(one[2], other[2]) - max(one[1], other[1])
    down = min(one[4], other[4]) - max(one[3], other[3])
    return across > _TOUCH_PX and down > _TOUCH_PX


def take_pictures(folder: Path) -> None:
    """dashboard.png and dashboard-phone.png."""
    with tempfile.TemporaryDirectory() as text:
        runs = Path(text) / "runs"
        simulate("digits", workers=8, rounds=12, partition="dirichlet:0.5", state=runs / "digits").close()
        with served(runs) as port, chromium(Path(text) / "profile") as browser:
            url = f"http://localhost:{port}/run/digits/"
            for name, width, height, scheme in (
                ("dashboard.png", 1280, 1500, "light"),
                ("dashboard-phone.png", 390, 1300, "dark"),
            ):
                show(browser, url, width=width, height=height, scheme=scheme)
                wait_for(lambda: browser.execute_script(NUM_POINTS) == 12, browser)
                browser.save_screenshot(str(folder / name))


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
