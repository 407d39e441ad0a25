"""The page's addresses: what they give, and what they do not."""

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from page_server import OWN_TASK, PacedRun, answer, events, served

from aggregator import History
from console.errors import ExitCode
from dashboard.cli import main
from simulation import simulate

TOKEN = "0123456789abcdef-token"
FORGED = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that are over; into one an update of a forged name was put."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("first", "second"):
        simulate(f"{OWN_TASK}:Spirals", workers=2, rounds=2, state=folder / name).close()
    with closing(sqlite3.connect(folder / "second" / "ledger.sqlite")) as ledger, ledger:
        ledger.execute(
            "INSERT INTO updates (received_at, round, verdict, reason, worker) VALUES (1, 2, 'refused', ?, ?)",
            (f"=HYPERLINK(1) {FORGED}", FORGED),
        )
    return folder


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with served(folder) as port:
        yield port


def text(port: int, path: str) -> str:
    with answer(port, path) as response:
        assert response.status == 200, path
        return response.read().decode()


def status(port: int, path: str, **request: str) -> int:
    with answer(port, path, **request) as response:
        return response.status


def test_several_runs_are_listed_the_newest_first_with_state_rounds_and_best(port: int) -> None:
    runs = json.loads(text(port, "/runs.json"))
    assert [run["name"] for run in runs] == ["second", "first"]
    for run in runs:
        assert (run["state"], run["rounds"], run["of"]) == ("finished", 2, 2)
        assert run["reason"] == "all 2 rounds are done"
        assert run["best"]["metric"] == "accuracy"
        assert run["best"]["round"] in (1, 2)


def test_nothing_that_is_served_says_where_it_lies_on_the_machine(port: int, folder: Path, tmp_path: Path) -> None:
    paths = (
        "/",
        "/runs.json",
        "/run/first/",
        "/run/first/run.json",
        "/run/first/summary.json",
        "/run/first/report.html",
    )
    for path in (*paths, "/run/first/rounds.csv", "/run/first/updates.csv"):
        found = text(port, path)
        assert str(folder) not in found, path
        assert str(OWN_TASK.parent) not in found, path
    assert json.loads(text(port, "/run/first/run.json"))["run"]["task"] == "own_task.py:Spirals"
    (tmp_path / "ledger.sqlite").write_text("not a database, but long enough to be taken for one" * 10)
    with served(tmp_path) as broken, answer(broken, f"/run/{tmp_path.name}/run.json") as response:
        said = response.read().decode()
        assert (response.status, str(tmp_path) in said) == (503, False)
        assert said.startswith(f"{tmp_path.name}/ledger.sqlite cannot be read")


def test_a_single_run_is_shown_at_once(folder: Path) -> None:
    with served(folder / "first") as port, answer(port, "/") as response:
        assert (response.status, response.headers["location"]) == (307, "run/first/")


def test_everything_the_page_needs_is_served_from_here(port: int) -> None:
    page = text(port, "/run/first/")
    for name in (
        "svg.js",
        "curve.js",
        "timeline.js",
        "map.js",
        "draw.js",
        "workers.js",
        "statistics.js",
        "run.js",
        "page.css",
        "run.css",
        "icon.svg",
    ):
        assert f"../../static/{name}" in page
        assert status(port, f"/static/{name}") == 200
    assert "//" not in page.replace("<!doctype html>", "")


def test_an_answer_forbids_what_the_page_does_not_need(port: int) -> None:
    with answer(port, "/run/first/") as response:
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
    with answer(port, "/run/first/report.html") as response:
        assert "sandbox" in response.headers["content-security-policy"]


def test_the_ledger_is_downloaded_as_csv_without_formulas(port: int, folder: Path) -> None:
    rounds = list(csv.DictReader(io.StringIO(text(port, "/run/second/rounds.csv"))))
    with History(folder / "second") as history:
        assert [row["model_sha256"] for row in rounds] == [row["model_sha256"] for row in history.rounds()]
    updates = list(csv.DictReader(io.StringIO(text(port, "/run/second/updates.csv"))))
    assert [row["verdict"] for row in updates] == ["folded"] * 4 + ["refused"]
    assert updates[-1]["reason"].startswith("'=HYPERLINK")
    assert float(updates[0]["eval.accuracy"]) > 0
    assert updates[-1]["eval.accuracy"] == ""


def test_models_and_summary_are_downloaded_as_they_are(port: int, folder: Path) -> None:
    with answer(port, "/run/first/models/last.safetensors") as response:
        assert response.read() == (folder / "first" / "models" / "last.safetensors").read_bytes()
        assert 'filename="first-last.safetensors"' in response.headers["content-disposition"]
    assert json.loads(text(port, "/run/first/summary.json"))["run"] == "simulation"


@pytest.mark.parametrize(
    "path",
    [
        "/run/third/",
        "/run/..%2fsecret/",
        "/run/../../etc/passwd",
        "/run/first/models/..%2f..%2fledger.safetensors",
        "/run/first/models/round-99999.safetensors",
        "/run/first/ledger.sqlite",
        "/static/..%2fserver.py",
        f"/run/{quote(FORGED)}/",
    ],
)
def test_what_is_not_there_is_not_found(port: int, path: str) -> None:
    assert status(port, path) == 404


def test_nothing_can_be_written_and_no_other_host_s_page_can_look(port: int) -> None:
    assert status(port, "/run/first/", method="POST") == 405
    assert status(port, "/run/first/summary.json", method="DELETE") == 405
    assert status(port, "/", host="evil.example") == 400


def test_a_refusal_carries_the_same_headers_as_a_page(port: int) -> None:
    with answer(port, "/run/first/", host="evil.example") as response:
        assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", "/run/first/", "/run/first/events", "/run/first/summary.json", "/static/run.js"])
def test_with_a_token_nothing_is_given_to_those_without_it(folder: Path, path: str) -> None:
    with served(folder, token=TOKEN) as port:
        assert status(port, path) == 401
        with answer(port, path, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            assert response.status == 200


def test_a_browser_shows_the_token_once_and_has_a_cookie_from_then_on(folder: Path) -> None:
    with served(folder, token=TOKEN) as port:
        with answer(port, f"/run/first/?token={TOKEN}") as response:
            assert (response.status, response.headers["cache-control"]) == (200, "no-store")
            cookie = response.headers["set-cookie"].partition(";")[0]
        with answer(port, "/run/first/", headers={"Cookie": cookie}) as response:
            assert "<script" in response.read().decode()


def test_a_run_is_followed_from_before_its_first_round_to_its_end(tmp_path: Path) -> None:
    state = tmp_path / "run"
    state.mkdir()
    (state / "ledger.sqlite").touch()
    with served(state) as port, answer(port, "/run/run/events") as response:
        messages = events(response)
        assert "not begun" in next(messages)["waiting_for"]
        seen: list[int] = []
        with PacedRun(state, rounds=3) as run:
            for data in messages:
                if "waiting_for" not in data:
                    run.go_on(1)
                    seen.append(len(data["rounds"]))
                    if data["stopped"]:
                        break
    assert seen == sorted(seen)
    assert seen[-1] == 3
    assert data["curves"] == ["accuracy"]
    assert [row["num_folded"] for row in data["workers"]] == [3] * 4


def test_a_state_directory_of_no_use_says_so_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database, but long enough to be taken for one" * 10)
    with served(tmp_path) as port, answer(port, f"/run/{tmp_path.name}/events") as response:
        assert "cannot be read as a ledger" in next(events(response))["waiting_for"]


def test_bad_settings_are_one_clear_line(
    tmp_path: Path, folder: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--state", str(tmp_path / "none")]) == ExitCode.STATE
    assert "there is no folder" in capsys.readouterr().err
    assert main(["--state", str(folder), "--port", str(port)]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "Address already in use" in error
    assert "--port" in error
    assert len(error.splitlines()) == 1
