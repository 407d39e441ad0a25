"""What the workers measured of one model, as a table for a terminal: a line a worker, then the mean."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from console import metric_text, name_of
from learning import Measured

_MOST_LINES = 40


def evaluation_table(evaluation: Mapping[str, Any]) -> Table:
    """Of the ``evaluation`` in a summary. Of many workers, the first ones."""
    workers = {name: Measured.of(recorded) for name, recorded in evaluation["workers"].items()}
    mean, central = Measured.of(evaluation["mean"]), Measured.of(evaluation["central"])
    names = list(dict.fromkeys(name for each in (mean, central, *workers.values()) for name in each.metrics))
    title = f"the model {evaluation['model_sha256'][:12]}… at {len(workers):,} worker{'' if len(workers) == 1 else 's'}"
    table = Table(title=title)
    table.add_column("")
    for name in ("samples", *names):
        table.add_column(name, justify="right")

    def add(title: str, measured: Measured) -> None:
        samples = "" if measured.num_samples is None else f"{measured.num_samples:,.0f}"
        metrics = measured.metrics
        table.add_row(title, samples, *(metric_text(metrics[name]) if name in metrics else "" for name in names))

    for worker, measured in list(workers.items())[:_MOST_LINES]:
        add(name_of(worker), measured)
    table.add_section()
    add("mean, weighted by samples", mean)
    if central.metrics:
        add("central test data", central)
    if len(workers) > _MOST_LINES:
        table.caption = f"and {len(workers) - _MOST_LINES:,} workers more; all are in summary.json"
    return table
