"""``--tensorboard DIR``: each round's numbers as a TensorBoard log."""

import time
from pathlib import Path
from typing import Any

from aggregator.events import Event, RoundClosed, RunOpened, SitesMeasured
from aggregator.state import recorded_metrics
from console import SettingsError
from learning import at_sites


class TensorBoardLog:
    """Writes to a folder for the run below ``folder``. A resumed run continues in its folder."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise SettingsError("--tensorboard needs tensorboardX: pip install 'fedmq[tensorboard]'") from error
        self._folder = folder
        self._make = SummaryWriter
        self._writer: Any = None

    def on_event(self, event: Event) -> None:
        """Takes what happened."""
        match event:
            case RunOpened():
                self.close()
                own = f".{time.time_ns()}"  # files are named by the second, and would replace each other
                first = event.last_closed_round + 1
                self._writer = self._make(str(self._folder / event.run_id), purge_step=first, filename_suffix=own)
            case SitesMeasured(row=row):
                for name, value in at_sites(row["worker_metrics"]).items():
                    self._writer.add_scalar(f"workers/{name}", value, row["round"], walltime=row["closed_at"])
                self._writer.flush()
            case RoundClosed():
                row = event.row
                numbers = {f"central/{name}": value for name, value in recorded_metrics(row).items()}
                numbers |= {f"workers/{name}": value for name, value in row["worker_metrics"].items()}
                numbers |= {f"round/{name}": row[name] for name in ("seconds", "num_folded", "num_late", "num_refused")}
                for name, value in numbers.items():
                    self._writer.add_scalar(name, value, row["round"], walltime=row["closed_at"])
                self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
