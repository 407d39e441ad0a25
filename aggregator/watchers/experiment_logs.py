"""The experiment logs that a run writes on request, beside its own ledger."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from aggregator.events import Watcher
from aggregator.settings import RunSettings
from aggregator.watchers.mlflow_log import MLflowLog
from aggregator.watchers.tensorboard_log import TensorBoardLog


@contextmanager
def experiment_logs(settings: RunSettings) -> Iterator[list[Watcher]]:
    """Watchers for ``--tensorboard`` and ``--mlflow``, closed on exit; a SettingsError if one is not installed."""
    with ExitStack() as stack:
        logs: list[TensorBoardLog | MLflowLog] = []
        if settings.tensorboard is not None:
            logs.append(TensorBoardLog(settings.tensorboard))
        if settings.mlflow is not None:
            logs.append(MLflowLog(settings.mlflow, settings.model_dump(mode="json", exclude={"broker", "mlflow"})))
        for each in logs:
            stack.callback(each.close)
        yield [each.on_event for each in logs]
