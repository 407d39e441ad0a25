"""All that can be set of a statistics run."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from aggregator import AggregatorSettings, Quorum, QuorumAsText
from broker import ServiceSettings
from broker.wire import RunName
from console import Arguments, ArgumentsAsText, SettingsError, settings_of
from identities import IdentitySettings
from learning import Task
from learning.sums import Layout, columns_of, digest_of, num_classes_of
from simulation.settings import SimulationSettings

ROUNDS = 2
"""Without those that narrow the quantiles."""


def _levels_in(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(",") if word.strip())


def _checked_levels(text: str) -> str:
    try:
        levels = _levels_in(text)
    except ValueError:
        levels = (-1.0,)
    if not all(0 <= level <= 1 for level in levels) or len(levels) > 16:
        raise ValueError(
            f"expected at most 16 numbers from 0 to 1 with commas between, such as 0.25,0.5,0.75, not {text!r}"
        )
    return text


class StatisticsSettings(ServiceSettings, IdentitySettings):
    """One statistics run."""

    task: str = Field("digits", description="built-in task (digits, breast-cancer), module:object or file.py:object")
    task_args: ArgumentsAsText = Field(
        Arguments(), description="name=value for the task here, in site.args, such as csv=/data/a.csv; once for each"
    )
    features: Annotated[int, Field(ge=1)] | None = Field(
        None, description="number of features, where the task has no test data here that shows it"
    )
    classes: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        None, description="number of labels to count, where the task's model does not show it; 0: none"
    )
    bins: Annotated[int, Field(ge=1, le=1024)] = Field(32, description="bins of each feature's histogram")
    quantiles: Annotated[str, AfterValidator(_checked_levels)] = Field(
        "0.25,0.5,0.75", description="quantiles of each feature, from 0 to 1, with commas between; empty: none"
    )
    quantile_rounds: Annotated[int, Field(ge=0, le=12)] = Field(
        0, description="further rounds, in each of which the bin of a quantile is cut into --bins again"
    )
    min_samples: Annotated[int, Field(ge=1)] = Field(
        1, description="fewest samples of a site that takes part; one with fewer sends nothing"
    )
    suppress_below: Annotated[int, Field(ge=0)] = Field(
        0,
        description="a site withholds counts below this, and lowest and highest values that fewer samples reach;"
        " 0: everything is exact",
    )
    simulate: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="take the statistics of so many simulated sites, in this process and without a broker"
    )
    partition: str = Field(
        "iid", description="how data are spread over simulated sites: iid, dirichlet:0.5, shards:2 or draws:20"
    )
    quorum: QuorumAsText = Field(
        Quorum.parse("100%"),
        description="sites that close a round: a count (3), or a share of the workers present (80% or 0.8)",
    )
    deadline_s: Annotated[float, Field(gt=0)] | None = Field(
        600.0, description="seconds after which a round closes without its quorum; none: never"
    )
    min_updates: Annotated[int, Field(ge=1)] = Field(1, description="fewest sites that a round needs")
    on_short: Literal["extend", "accept", "abandon"] = Field(
        "extend",
        description="at the deadline with fewer sites: extend (wait on), accept (use them) or abandon (drop them)",
    )
    workers_allowed: str | None = Field(
        None, description="workers that count: names or patterns, separated by commas, or a file with one a line"
    )
    run: RunName = Field("statistics", description="name of the run; a state directory belongs to one run")
    state: Path = Field(
        Path("statistics"),
        description="directory of the run, from which it goes on; statistics.json is in it at the end",
    )

    @model_validator(mode="after")
    def _withholding_needs_room(self) -> Self:
        if self.min_samples < self.suppress_below:
            raise ValueError(
                f"--suppress-below {self.suppress_below} needs at least --min-samples {self.suppress_below}: a smaller"
                " site would withhold everything but its sums, which then say too much"
            )
        return self

    @property
    def num_rounds(self) -> int:
        return ROUNDS + self.quantile_rounds

    def of_aggregator(self) -> AggregatorSettings:
        """The same run, as an aggregator's settings."""
        names = AggregatorSettings.model_fields.keys() & type(self).model_fields.keys()
        return settings_of(
            AggregatorSettings, {name: getattr(self, name) for name in names} | {"rounds": self.num_rounds}
        )

    def of_simulation(self) -> SimulationSettings:
        """The same run, simulated."""
        names = ("task", "task_args", "partition", "state", "run", "log_level")
        fields = {name: getattr(self, name) for name in names} | {"workers": self.simulate, "rounds": self.num_rounds}
        return settings_of(SimulationSettings, fields)

    def layout(self, task: Task) -> tuple[Layout, tuple[str, ...]]:
        """What statistics are taken of, and the features' names; ``task`` is the aggregator's."""
        columns = columns_of(task)
        num_features = self.features or columns.num_features
        if not num_features:
            raise SettingsError(
                "the task has no test data here that show how many features there are: give --features N, and"
                " --classes N for whole numbers as targets"
            )
        names = columns.names if len(columns.names) == num_features else ()
        layout = Layout(
            num_features=num_features,
            num_classes=num_classes_of(task) if self.classes is None else self.classes,
            num_bins=self.bins,
            levels=_levels_in(self.quantiles),
            min_samples=self.min_samples,
            suppress_below=self.suppress_below,
            names=digest_of(names),
        )
        return layout, names
