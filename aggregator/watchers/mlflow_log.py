"""``--mlflow URI``: an MLflow run for each of ours, written by a separate thread, so that no server delays a round."""

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any

from aggregator.events import Event, RoundClosed, RunEnded, RunOpened, SitesMeasured
from aggregator.state import recorded_metrics
from console import SettingsError
from learning import at_sites

log = logging.getLogger(__name__)

_EXPERIMENT = "fedmq"
_TAG = "fedmq.run_id"
_MOST_WAITING = 10_000
_LEAVE_S = 10.0


class MLflowLog:
    """Settings as parameters, metrics by round, the model's digest as a tag. A resumed run is found by its tag.

    A failing server is reported once and gets nothing more; the ledger has what it misses.
    """

    def __init__(self, uri: str, settings: Mapping[str, Any]) -> None:
        try:
            from mlflow import MlflowClient, entities
        except ImportError as error:
            raise SettingsError("--mlflow needs MLflow's client: pip install 'fedmq[mlflow]'") from error
        self._make: Any = MlflowClient
        self._entities: Any = entities
        self._uri, self._settings = uri, settings
        self._waiting: queue.Queue[Event | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
        self._thread.start()

    def on_event(self, event: Event) -> None:
        """Takes what happened; never waits."""
        if isinstance(event, RunOpened | RoundClosed | SitesMeasured | RunEnded):
            self._waiting.put_nowait(event)

    def close(self) -> None:
        """Gives the server ten seconds to take the waiting events."""
        self._waiting.put(None)
        self._thread.join(_LEAVE_S)

    def _write(self) -> None:
        try:
            client, run_id = self._make(tracking_uri=self._uri), ""
            while (event := self._waiting.get()) is not None:
                match event:
                    case RunOpened():
                        run_id = self._run(client, event)
                    case RoundClosed():
                        self._log_round(client, run_id, event.row)
                    case SitesMeasured(row=row):
                        client.log_batch(run_id, metrics=self._points(row, at_sites(row["worker_metrics"])))
                    case RunEnded():
                        client.set_tag(run_id, "stopped", event.reason)
                        client.set_terminated(run_id)
        except Exception as error:  # a client may raise anything when its server is away
            log.warning("MLflow at %s failed and gets nothing more: %s", self._uri, " ".join(str(error).split())[:300])

    def _run(self, client: Any, event: RunOpened) -> str:
        found = client.get_experiment_by_name(_EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(_EXPERIMENT)
        for known in client.search_runs([experiment], f"tags.`{_TAG}` = '{event.run_id}'", max_results=1):
            return str(known.info.run_id)
        run_id = str(client.create_run(experiment, run_name=event.run, tags={_TAG: event.run_id}).info.run_id)
        client.log_batch(run_id, params=[self._entities.Param(*item) for item in self._settings.items()])
        return run_id

    def _log_round(self, client: Any, run_id: str, row: Mapping[str, Any]) -> None:
        numbers = {**recorded_metrics(row), **row["worker_metrics"]} | {
            name: row[name] for name in ("seconds", "num_folded", "num_late", "num_refused")
        }
        client.log_batch(run_id, metrics=self._points(row, numbers))
        client.set_tag(run_id, "model_sha256", row["model_sha256"])

    def _points(self, row: Mapping[str, Any], numbers: Mapping[str, float]) -> list[Any]:
        at_ms = int(1000 * row["closed_at"])
        return [self._entities.Metric(name, value, at_ms, row["round"]) for name, value in numbers.items()]
