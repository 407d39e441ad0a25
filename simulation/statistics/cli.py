"""``fl-statistics``: takes the statistics of all sites' samples, over the same queue as training, or simulated."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from safetensors.torch import load_file

from aggregator import History, lead
from aggregator.history import STATISTICS, write_report
from aggregator.state import StateDirectory
from console import ExitCode, TaskError, configure_logging, exit_code_of, private_files, read_settings
from learning import Task, load_task
from learning.sums import StatisticsTask, figures_of
from simulation.notebook import simulated
from simulation.statistics.settings import StatisticsSettings
from simulation.statistics.table import table_of

log = logging.getLogger(__name__)

_PROG = "fl-statistics"
_DESCRIPTION = """\
Takes count, mean, standard deviation, extremes, histogram and quantiles of each feature, and counts of labels, over
the samples of all sites: exactly, as if they lay in one place. Sites send sums. Any fl-worker answers it."""
_EXAMPLES = """\
  fl-statistics --task breast-cancer --simulate 8 --partition dirichlet:0.1
  FEDMQ_BROKER=amqps://user:secret@broker:5671/ fl-statistics --task my_task.py:task --quorum 5 --deadline-s 60
  fl-statistics --task my_task.py:task --features 12 --classes 2 --min-samples 20 --suppress-below 5
Then: fl-aggregator --task my_task.py:task --statistics statistics/statistics.json"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(StatisticsSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    names: list[str] = []

    def task_of(task: Task) -> Task:
        layout, found = settings.layout(task)
        names.extend(found)
        return cast(Task, StatisticsTask(task, layout))

    if settings.simulate:
        configure_logging(settings.log_level if settings.log_level != "INFO" else "WARNING")
        with private_files(settings.state):
            simulated(settings.of_simulation(), partial(load_task, settings.task), judge_of=task_of).close()
    else:
        code = lead(settings.of_aggregator(), task_of, prog=_PROG, argv=argv)
        if code is not ExitCode.OK:
            return code
    with private_files(settings.state):
        figures = written(settings.state, settings.num_rounds, names)
        write_report(settings.state)  # again, for it shows them
    console = Console()
    console.print(table_of(figures))
    console.print(f"{settings.state / STATISTICS}", soft_wrap=True)
    return ExitCode.OK


def written(state: Path, num_rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """The figures of a finished run, which are also in its directory. TaskError if it has none."""
    with History(state) as history:
        model = load_file(history.model_path())
        facts = history.facts
    if int(model["rounds"][0]) < num_rounds:
        raise TaskError(
            f"there are no statistics: of {num_rounds} rounds only {int(model['rounds'][0])} had a site that answered;"
            " why others did not is in the log and in report.html; begin again with another --state and --run"
        )
    figures = {"run_id": facts["run_id"], "task": facts["task"], **figures_of(model, names)}
    StateDirectory(state).write_json(state / STATISTICS, figures)
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
