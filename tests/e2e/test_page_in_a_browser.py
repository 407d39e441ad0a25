"""The page as a person sees it, in headless Chromium: followed live, on a phone, in the dark, with forged names."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from browser import NUM_POINTS, chromium, overlapping_labels, show, wait_for
from long_run import write_long_run
from page_server import OWN_TASK, PacedRun, served
from selenium import webdriver
from selenium.webdriver.support.select import Select

from aggregator import History
from aggregator.history.report import write_report
from learning.sums import Layout, StatisticsTask, figures_of
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


@pytest.fixture(scope="module")
def long_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of many rounds and workers, with other settings."""
    folder = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(("one", "two")):
        write_long_run(folder / name, rounds=60, workers=60, settings=number)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_run_is_legible_on_a_phone_and_in_the_dark(
    browser: webdriver.Chrome, long_runs: Path, width: int, scheme: str
) -> None:
    with served(long_runs) as port:
        show(browser, f"http://localhost:{port}/run/one/", width=width, height=800, scheme=scheme)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 60, browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert overlapping_labels(browser) == []
        browser.find_element("css selector", "#window button[data-newest='20']").click()
        assert browser.execute_script("return span()") == {"first": 41, "last": 60}
        assert overlapping_labels(browser) == []
        assert browser.execute_script("return document.documentElement.scrollHeight") < 5000
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")) / 3
        assert (brightness > 128) == (scheme == "light")
        assert complaints(browser) == []


def test_many_workers_are_folded_and_counted_naturally_until_all_are_asked_for(
    browser: webdriver.Chrome, long_runs: Path
) -> None:
    with served(long_runs) as port:
        show(browser, f"http://localhost:{port}/run/one/", width=1280, height=800)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 60, browser)
        cells = "return [...document.querySelectorAll('#workers td.name')].map((cell) => cell.textContent)"
        names = browser.execute_script(cells)
        assert (len(names), names[:3], names[-1]) == (24, ["worker-0", "worker-1", "worker-2"], "worker-59")
        browser.find_element("css selector", "#workers td.fold button").click()
        assert browser.execute_script(cells) == [f"worker-{number}" for number in range(60)]
        browser.find_element("xpath", "//table[@id='workers']//button[starts-with(., 'worst')]").click()
        assert browser.execute_script(cells)[-1] == "worker-59"  # whose labels are flipped
        titles = [cell.text for cell in browser.find_elements("css selector", "#workers th")]
        assert titles[:2] == ["worker", "last update"]  # and no empty column between them


def test_a_loss_that_begins_far_up_leaves_room_for_the_rounds_after_it(
    browser: webdriver.Chrome, long_runs: Path
) -> None:
    with served(long_runs) as port:
        show(browser, f"http://localhost:{port}/run/one/", width=1280, height=800)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 60, browser)
        axis = "return document.querySelector('[data-figure=\"curve loss\"] .scale')"
        assert browser.execute_script(f"{axis}.textContent") == "log"
        browser.execute_script(f"{axis}.click()")
        assert browser.execute_script(f"{axis}.textContent") == "linear"


def test_two_runs_lie_over_each_other_with_the_settings_that_differ(browser: webdriver.Chrome, long_runs: Path) -> None:
    with served(long_runs) as port:
        show(browser, f"http://localhost:{port}/run/one/", width=390, height=800)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 60, browser)
        Select(browser.find_element("id", "other")).select_by_visible_text("two")
        wait_for(lambda: browser.execute_script("return figures['curve accuracy'].series.length") == 4, browser)
        assert overlapping_labels(browser) == []
        rows = [row.text for row in browser.find_elements("css selector", "#settings-differ tr")]
        assert rows == ["setting one two", "lr 0.05 0.025"]
        assert complaints(browser) == []


def test_a_page_without_a_run_fills_itself_when_one_begins(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with served(tmp_path) as port:
        show(browser, f"http://localhost:{port}/", width=1280, height=800)
        wait_for(lambda: "No run has begun" in browser.find_element("tag name", "body").text, browser)
        write_long_run(tmp_path / "one", rounds=2, workers=2)
        wait_for(lambda: browser.current_url.endswith("/run/one/"), browser)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 2, browser)
        write_long_run(tmp_path / "two", rounds=2, workers=2)
        browser.get(f"http://localhost:{port}/")
        wait_for(lambda: len(browser.find_elements("css selector", "#runs td.name")) == 2, browser)
        line = browser.find_element("css selector", "#runs tr:nth-child(2)").text
        assert line.startswith("two stopped 2 of 2 accuracy 0.1")
        assert str(tmp_path) not in browser.page_source
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
    with History(state) as history:
        written = {
            "run_id": history.facts["run_id"],
            **figures_of(StatisticsTask(None, Layout(num_features=1)).model().state_dict()),
        }
    written["features"][0]["name"] = FORGED
    (state / "statistics.json").write_text(json.dumps(written), encoding="utf-8")
    with served(tmp_path) as port:
        show(browser, f"http://localhost:{port}/run/run/", width=1280, height=900)
        wait_for(lambda: browser.execute_script(NUM_POINTS) == 2, browser)
        assert [cell.text for cell in browser.find_elements("css selector", "#statistics td.name")] == [FORGED]
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
