"""An honest but curious aggregator: all that it receives, keeps and shows says nothing of one site in a masked run.

One site has a planted number of samples and a planted loss. They are looked for, as text and as packed numbers, in
every message and blob of the run, in each file of the aggregator, and in what it logs and shows. In the same run
without masks, where they are to be found, the same search finds them.
"""

import logging
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import generate_latest
from torch import nn

from aggregator.events import Event
from aggregator.watchers.metrics import AggregatorMetrics
from aggregator.watchers.status import StatusBoard
from broker.memory import MemoryTransport, _BlobUpload
from broker.wire import Reply, UpdateHead, decode, is_of_kind
from learning import Plan, Site
from simulation import simulate

PLANTED = "hospital-b"
NUM_SAMPLES, LOSS = 48_611_873, 0.7310585786300049
"""As text, both are long enough not to come about by chance."""
SIZE = 4096
SITES = ("hospital-a", PLANTED, "hospital-c", "hospital-d")
STEPS = {"hospital-a": 0.0, PLANTED: 0.5, "hospital-c": -0.25, "hospital-d": 0.125}
"""What a site adds to each element: bodies that look very different."""
SECURE = {"privacy": "secure", "min_sites": 3}
OF_OTHERS = ("workers", "keeper-keeper", "federation.secret")
"""In the folder of a simulation, but not the aggregator's."""
CHI_SQUARE_255 = (150.0, 400.0)
"""Where that of noise is all but surely: 255, with a standard deviation of 22.6."""


class Telling:
    """The task at one site."""

    def __init__(self, site: Site) -> None:
        self._name = site.name

    def model(self) -> nn.Module:
        return nn.Linear(SIZE, 1, bias=False)

    def train(self, model: nn.Module, plan: Plan) -> Mapping[str, float]:
        with torch.no_grad():
            next(model.parameters()).add_(STEPS[self._name or ""])
        is_planted = self._name == PLANTED
        number = 31_000_000 + 1000 * SITES.index(self._name or "")
        return {"num_samples": NUM_SAMPLES if is_planted else number, "loss": LOSS if is_planted else 2.0}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        if self._name is None:
            return {}
        is_planted = self._name == PLANTED
        return {"num_samples": NUM_SAMPLES if is_planted else 1000, "loss": LOSS if is_planted else 3.0}


def packed() -> list[bytes]:
    """Both numbers as they could lie in bytes; none is so short that noise has it by chance."""
    number = [struct.pack(form, NUM_SAMPLES) for form in ("<q", ">q", "<d", ">d")]
    loss = [struct.pack(form, value) for form in ("<d", ">d") for value in (LOSS, LOSS * NUM_SAMPLES)]
    in_msgpack = [b"\xce" + struct.pack(">I", NUM_SAMPLES), b"\xca" + struct.pack(">f", LOSS)]
    in_ring = [struct.pack("<q", round(value * 2**20)) for value in (NUM_SAMPLES, LOSS * NUM_SAMPLES)]
    return [*number, *loss, *in_msgpack, *in_ring]


TEXT = re.compile(rb"(?<![0-9A-Za-z])(48[,._ ]?611[,._ ]?873|0\.73105857|4\.8611873)", re.ASCII)


def found_in(content: bytes) -> list[bytes]:
    return [*TEXT.findall(content), *(pattern for pattern in packed() if pattern in content)]


@dataclass
class Seen:
    """What an aggregator has to look at, by name."""

    things: list[tuple[str, bytes]] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    """Worker -> the body of its last update."""

    def add(self, name: str, content: bytes) -> None:
        self.things.append((name, content))

    def finds(self) -> set[str]:
        """The names of things in which a planted number is."""
        return {name for name, content in self.things if found_in(content)}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Seen:
    """Records every message and blob of all embedded brokers of this process."""
    caplog.set_level(logging.DEBUG)
    record = Seen()
    for name in ("broadcast", "send", "announce", "send_request", "send_release", "send_partial", "send_status"):
        monkeypatch.setattr(MemoryTransport, name, _recorded(record, name, getattr(MemoryTransport, name)))
    monkeypatch.setattr(_BlobUpload, "write", _recorded(record, "blob", _BlobUpload.write))
    return record


def _recorded(record: Seen, name: str, function: Any) -> Any:
    def recorded(self: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
        record.add(f"message: {name}", bytes(body))
        if name == "send":
            record.bodies |= dict(_body(bytes(body)))
        return function(self, body, *args, **kwargs)

    return recorded


def _body(message: bytes) -> Iterator[tuple[str, bytes]]:
    if not is_of_kind(message, Reply):
        head, payload = decode(message, UpdateHead)
        yield head.worker, bytes(payload)


def run(seen: Seen, state: Path, caplog: pytest.LogCaptureFixture, **settings: Any) -> None:
    """A run of all sites, and everything that its aggregator has at its end, put into ``seen``."""
    metrics, board, events = AggregatorMetrics(state), StatusBoard(), []

    def on_event(event: Event) -> None:
        metrics.on_event(event)
        board.on_event(event)
        events.append(repr(event))

    sites = {name: {} for name in SITES}
    history = simulate(Telling, sites=sites, rounds=3, state=state, on_event=on_event, seed=7, **settings)
    status = board.status()
    assert status is not None
    seen.add("metrics", generate_latest(metrics.registry))
    seen.add("status", status.model_dump_json().encode())
    seen.add("events", "\n".join(events).encode())
    seen.add("history", repr([list(history.updates()), history.rounds, history.contributions()]).encode())
    own = [each for each in caplog.records if not each.name.startswith(("worker.", "learning."))]
    seen.add("log", "\n".join(each.getMessage() for each in own).encode())
    for path in _files_of_aggregator(state):
        seen.add(f"file: {path.name}", path.read_bytes())
    for path in state.glob("*.sqlite"):
        seen.add(f"rows: {path.name}", "\n".join(_rows(path)).encode())


def _files_of_aggregator(state: Path) -> Iterable[Path]:
    return [
        path
        for path in sorted(state.rglob("*"))
        if path.is_file() and path.relative_to(state).parts[0] not in OF_OTHERS
    ]


def _rows(path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(path)) as ledger:
        for (table,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in ledger.execute(f"SELECT * FROM {table}"):
                yield f"{table} {row}"


def chi_square(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def test_nothing_that_the_aggregator_has_says_what_one_site_has(
    seen: Seen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(seen, tmp_path, caplog, **SECURE)
    assert seen.finds() == set()
    names = {name for name, _ in seen.things}
    assert {"message: send", "message: send_request", "message: send_release", "file: summary.json"} <= names
    assert {"file: report.html", "file: ledger.sqlite", "rows: ledger.sqlite", "metrics", "log"} <= names
    low, high = CHI_SQUARE_255
    assert set(seen.bodies) == set(SITES)
    for name, body in seen.bodies.items():
        assert len(body) > 8 * SIZE
        assert low < chi_square(body) < high, name


def test_in_the_same_run_without_masks_the_search_finds_both(
    seen: Seen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(seen, tmp_path, caplog)
    finds = seen.finds()
    assert {"message: send", "rows: ledger.sqlite", "events", "history"} <= finds
    assert chi_square(seen.bodies[PLANTED]) > 100 * CHI_SQUARE_255[1]
