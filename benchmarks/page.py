"""How long the page of a long run takes to open in headless Chromium, and what report and page weigh.

PYTHONPATH=tests:. python -m benchmarks.page        1,000 rounds and 200 workers, five times at each width
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from browser import NUM_POINTS, chromium, show
from long_run import write_long_run
from page_server import served
from selenium import webdriver

from aggregator.history import write_report

_ROUNDS, _WORKERS, _TIMES = 1000, 200, 5
_HAS_MAP = "return document.querySelectorAll('#sites canvas').length > 0"
_LONGEST_S = 60.0


def main(arguments: Sequence[str]) -> None:
    rounds, workers = (int(each) for each in arguments) if arguments else (_ROUNDS, _WORKERS)
    with tempfile.TemporaryDirectory() as text:
        state = write_long_run(Path(text) / "runs" / "long", rounds=rounds, workers=workers)
        print(f"report.html: {write_report(state).stat().st_size / 1e6:.2f} MB")
        with chromium(Path(text) / "profile") as browser:
            for width in (1280, 390):
                seconds = [_open(browser, state, width) for _ in range(_TIMES)]
                curves, whole = (median(each) for each in zip(*seconds, strict=True))
                print(f"{width} px: curves after {curves:.2f} s, the map of all sites after {whole:.2f} s")


def _open(browser: webdriver.Chrome, state: Path, width: int) -> tuple[float, float]:
    """Seconds until the curves are there, and until everything is; the server has not looked at the run before."""
    with served(state) as port:
        begin = time.perf_counter()
        show(browser, f"http://localhost:{port}/run/{state.name}/", width=width, height=900)
        return _wait(browser, f"{NUM_POINTS} > 0", begin), _wait(browser, _HAS_MAP, begin)


def _wait(browser: webdriver.Chrome, script: str, begin: float) -> float:
    while not browser.execute_script(script):
        assert time.perf_counter() - begin < _LONGEST_S
        time.sleep(0.01)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main(sys.argv[1:])
