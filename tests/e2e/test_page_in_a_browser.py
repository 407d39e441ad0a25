"""The page as a person sees it, in headless Chromium: followed live, on a phone, in the dark, with forged names."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from browser import NUM_POINTS, chromium, show, wait_for
from page_server import OWN_TASK, PacedRun, served
from selenium import webdriver

from aggregator import History
from aggregator.history.report import write_report
from simulation import simulate

pytestmark = pytest.mark.timeout(300)
FORGED = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the console has to say: errors, refused requests, blocked scripts."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_a_run_of_ten_rounds_is_followed_without_a_reload(browser: webdriver.Chrome, tmp_path: Path) -> None:
    state = tmp_path / "run"
    with PacedRun(state) as run, served(tmp_path) as port:
        run.go_on(2)
        wait_for((state / "ledger.sqlite").exists, browser)
        show(browser, f"http://localhost:{port}/run/run/", width=1280, height=900)
        browser.execute_script("window.isTheSamePage = true")
        for num_closed in (3, 6, 10):
            wait_for(lambda most=num_closed: browser.execute_script(NUM_POINTS) == most, browser)
            run.go_on(3 if num_closed == 3 else 4)
        wait_for(lambda: browser.find_element("id", "state").text == "finished", browser)
        assert browser.execute_script("return window.isTheSamePage")
        links = {link.text for link in browser.find_elements("css selector", "#downloads a")}
        assert links >= {"rounds.csv", "updates.csv", "summary.json", "last.safetensors"}
        assert len(browser.find_elements("css selector", "#workers td.name")) == 4
        assert complaints(browser) == []
        picture = tmp_path / "page.png"
        assert browser.save_screenshot(str(picture))
        assert picture.stat().st_size > 20_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_the_dark(browser: webdriver.Chrome, tmp_path: Path, width: int, scheme: str) -> None:
    simulate(f"{OWN_TASK}:Spirals", workers=3, rounds=2, state=tmp_path / "run").close()
    with served(tmp_path) as port:
        show(browser, f"http://localhost:{port}/run/run/", width=width, height=800, scheme=scheme)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 2, browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) / 3
        assert (brightness > 128) == (scheme == "light")
        assert complaints(browser) == []


def test_a_forged_name_is_text_on_the_page_and_in_the_report(browser: webdriver.Chrome, tmp_path: Path) -> None:
    state = tmp_path / "run"
    simulate(f"{OWN_TASK}:Spirals", workers=2, rounds=2, state=state).close()
    with closing(sqlite3.connect(state / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE updates SET worker = ? WHERE worker = 'worker-0'", (FORGED,))
        ledger.execute(
            "INSERT INTO updates (received_at, round, verdict, reason, worker) VALUES (1, 2, 'refused', ?, ?)",
            (f"<img src=x onerror=alert(2)> {FORGED}", FORGED),
        )
    with served(tmp_path) as port:
        show(browser, f"http://localhost:{port}/run/run/", width=1280, height=900)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 2, browser)
        names = [cell.text for cell in browser.find_elements("css selector", "#workers td.name")]
        assert FORGED in names
        assert FORGED in browser.find_element("id", "refused").text
        assert browser.find_elements("css selector", "table img, table script") == []
        assert complaints(browser) == []
    show(browser, write_report(state).as_uri(), width=1280, height=900)
    wait_for(lambda: browser.execute_script(NUM_POINTS) == 2, browser)
    assert FORGED in browser.find_element("tag name", "body").text
    with History(state) as history:
        assert history.is_finished
    assert complaints(browser) == []
