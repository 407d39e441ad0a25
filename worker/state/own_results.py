"""A site's own results of a run: the best and the last model as they stand there, and its evaluation of every round.

A model is the one that was received, with the tensors that stay at the site: what the task's ``evaluate`` measured.

DIR/<worker>/run-<run id>/best.safetensors, last.safetensors    the tensors by their names in the model
DIR/<worker>/run-<run id>/evaluations.jsonl                     a line a round: {"round": 3, "metrics": {"loss": 0.5}}
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from broker.states import State
from console import StateError
from console.durable import replace_file
from learning import Direction, plain, rank, restored
from worker.state.evaluations import Evaluations

_STOP_METRIC = "loss"
"""What decides on the best model; of a task without it, the most usual of its metrics does."""


class OwnResults:
    """Those of one worker, below ``folder``; one best and one last model of each run."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder / worker
        self._run_id = ""
        self._evaluations: Evaluations | None = None
        self._best: float | None = None

    def measured(self, run_id: str, round_number: int, model: State, metrics: Mapping[str, float]) -> None:
        """Keeps the model after that round, and what was measured of it. A round measured again replaces itself.

        StateError if it cannot be written, or if what was written before cannot be read.
        """
        folder, evaluations = self._of(run_id), self._opened(run_id)
        evaluations.add(round_number, plain(metrics))
        last = folder / "last.safetensors"
        save_model(last, model, round_number=round_number, run_id=run_id, metrics=metrics)
        metric = _metric_of(metrics)
        if metric is not None and _is_better(metric, metrics[metric], self._best):
            replace_file(folder / "best.safetensors", lambda path: _link(last, path))
            self._best = metrics[metric]

    def finished(self, run_id: str, round_number: int, model: State) -> None:
        """Keeps the run's final model as the last one."""
        metrics = restored(self._opened(run_id).of(round_number))
        save_model(
            self._of(run_id) / "last.safetensors", model, round_number=round_number, run_id=run_id, metrics=metrics
        )

    def _opened(self, run_id: str) -> Evaluations:
        """The run's evaluations, once what lies in its folder is known."""
        if self._evaluations is None or run_id != self._run_id:
            folder = self._of(run_id)
            self._evaluations = Evaluations(folder / "evaluations.jsonl")
            self._best = _read_best(folder / "best.safetensors")
            self._run_id = run_id
        return self._evaluations

    def _of(self, run_id: str) -> Path:
        return self._folder / f"run-{run_id}"


def save_model(path: Path, model: State, *, round_number: int, run_id: str, metrics: Mapping[str, float]) -> None:
    """Writes a model after that round, with its names as the task's module has them. StateError if it cannot be."""
    notes = {"run_id": run_id, "round": str(round_number), "metrics": json.dumps(plain(metrics))}
    replace_file(
        path,
        lambda new: save_file({name: tensor.cpu().contiguous() for name, tensor in model.items()}, new, notes),
    )


def _metric_of(metrics: Mapping[str, float]) -> str | None:
    if _STOP_METRIC in metrics:
        return _STOP_METRIC
    return min(metrics, key=lambda name: (rank(name), name), default=None)


def _is_better(metric: str, value: float, best: float | None) -> bool:
    direction = Direction.of(metric)
    worst = float("inf") if direction is Direction.MIN else float("-inf")
    return direction.is_better(value, worst if best is None else best)


def _link(last: Path, path: Path) -> None:
    """The same file under a second name: the next last model takes the place of the first name alone."""
    with suppress(FileNotFoundError):
        path.unlink()
    try:
        os.link(last, path)
    except OSError:  # a file system without such links
        path.write_bytes(last.read_bytes())


def _read_best(path: Path) -> float | None:
    """The value by which the model there was the best; None if there is none."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metrics = restored(json.loads((file.metadata() or {})["metrics"]))
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StateError(f"{path} cannot be read: {error}; move it away, and the run goes on without it") from error
    metric = _metric_of(metrics)
    return None if metric is None else metrics[metric]
