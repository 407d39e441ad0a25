"""The fixture `run`: `pytest_plugins = ["script_run_plugin"]`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from script_run import Run

import worker.joining


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    run = Run(tmp_path / "state")
    monkeypatch.setattr(worker.joining, "connect", lambda *args, **kwargs: run.transport())
    monkeypatch.chdir(tmp_path)
    yield run
    run.ends()
