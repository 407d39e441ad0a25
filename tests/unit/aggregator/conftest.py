"""Runs on the embedded broker that let go of their folders when the test is over."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.aggregator.embedded_run import EmbeddedRun

Begin = Callable[..., EmbeddedRun]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """``begin(problem, **settings)``: a started run in a folder of its own, or in ``folder``."""
    runs: list[EmbeddedRun] = []

    def make(problem: Any, *, folder: str = "run", **settings: Any) -> EmbeddedRun:
        runs.append(EmbeddedRun.make(tmp_path / folder, problem, **settings))
        return runs[-1].start()

    yield make
    for run in runs:
        run.aggregator.close()
