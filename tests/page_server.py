"""The page, served in this process at a free port, and a run that goes on as the test tells it."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from aggregator.events import Event, RoundClosed
from console import ServedSettings, settings_of
from dashboard.feed import Live
from dashboard.server import Dashboard, PageServer
from simulation import simulate

OWN_TASK = Path(__file__).parents[1] / "examples" / "own_task.py"
SOON_S = 60.0
NO_HEADERS: Mapping[str, str] = {}


@contextmanager
def served(folder: Path, *, live: Live | None = None, **settings: str) -> Iterator[int]:
    """The port at which the runs in ``folder`` are served; ``settings`` are those of who is answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = PageServer(Dashboard(folder, live=live), settings_of(ServedSettings, settings), host="127.0.0.1")
        thread = threading.Thread(target=server.run, args=([listening],), name="page server")
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.stop()
            thread.join(SOON_S)


@contextmanager
def answer(
    port: int, path: str, *, method: str = "GET", host: str = "localhost", headers: Mapping[str, str] = NO_HEADERS
) -> Iterator[HTTPResponse]:
    """What the server says to one request; the path goes out as it is written."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SOON_S)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", f"{host}:{port}")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        yield connection.getresponse()
    finally:
        connection.close()


def events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The messages of an event stream."""
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


class PacedRun:
    """A simulation of ten rounds that waits after each round until it is told to go on, inside a ``with``."""

    def __init__(self, state: Path, *, rounds: int = 10) -> None:
        self._allowed = threading.Semaphore(0)
        self._errors: list[BaseException] = []
        self._rounds = rounds
        self._thread = threading.Thread(target=self._run, args=(state,), name="paced run")

    def go_on(self, num_rounds: int) -> None:
        for _ in range(num_rounds):
            self._allowed.release()

    def __enter__(self) -> "PacedRun":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.go_on(self._rounds)
        self._thread.join(SOON_S)
        assert not self._errors

    def _run(self, state: Path) -> None:
        try:
            simulate(f"{OWN_TASK}:Spirals", workers=4, rounds=self._rounds, state=state, on_event=self._wait).close()
        except BaseException as error:
            self._errors.append(error)

    def _wait(self, event: Event) -> None:
        if isinstance(event, RoundClosed):
            self._allowed.acquire()
