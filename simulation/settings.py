"""All that can be set of a simulation: a run, its number of workers, and how data are spread over them."""

import contextlib
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from aggregator import AggregatorSettings, Quorum, QuorumAsText, RunSettings
from broker import BrokerUrl
from broker.wire import QueueName, RunName
from console import AsText, settings_of
from simulation.sites import SimulatedSites


def _sites(given: Any) -> Any:
    """From Python, sites may be given as a mapping."""
    return SimulatedSites.of(given) if isinstance(given, Mapping) else str(given) if isinstance(given, Path) else given


SitesAsText = Annotated[AsText[SimulatedSites], BeforeValidator(_sites)]


class SimulationSettings(RunSettings):
    """One simulation."""

    broker: BrokerUrl | None = Field(
        None,
        description="URL of a RabbitMQ to run over (of a cluster: of its nodes, with commas between), with workers as"
        " processes; by default the embedded broker; one in the environment or a file is for other commands, and counts"
        " only with --over-rabbitmq",
    )
    over_rabbitmq: bool = Field(
        False, description="run over the broker that FEDMQ_BROKER or the file names, where no user sees its password"
    )
    run: RunName | None = Field(
        None,
        description="name of the run and its directory; by default simulation, and a directory named like the task",
    )
    queue: QueueName | None = Field(None, description="name of the results queue; by default one of its own")
    quorum: QuorumAsText | None = Field(None, description="updates that close a round; by default one from each worker")
    deadline_s: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="seconds after which a round closes without its quorum; by default never, so time decides nothing",
    )
    workers: Annotated[int, Field(ge=1, le=100_000)] = Field(8, description="number of workers")
    sites: SitesAsText | None = Field(
        None,
        description="file of the sites, one for each worker: YAML (name: arguments) or CSV (a column name; the others"
        " are arguments), see docs/task.md; by default worker-0 and so on, without arguments of their own",
    )
    jobs: Annotated[int, Field(ge=0, le=1024)] = Field(
        1,
        description="processes that train at once, over the embedded broker; 0: one per core; the result is the same",
    )
    deterministic: bool = Field(
        False,
        description="train with PyTorch's deterministic algorithms, as fl-worker does; an operation that has none is an"
        " error",
    )
    partition: str = Field(
        "iid", description="how data are spread over sites: iid, dirichlet:0.5, shards:2 or draws:20"
    )
    state: Path | None = Field(
        None, description="directory of the run, from which it goes on; by default a new one in runs/"
    )
    many: bool = Field(False, description="start more than 32 processes on this machine without a question")
    baselines: bool = Field(True, description="also train at single sites and on all data in one place, for comparison")

    @model_validator(mode="before")
    @classmethod
    def _there_are_as_many_workers_as_sites(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("sites") and given.get("workers") is None:
            with contextlib.suppress(ValueError):  # which the field itself will tell
                sites = _sites(given["sites"])
                sites = sites if isinstance(sites, SimulatedSites) else SimulatedSites.parse(str(sites))
                return given | {"sites": sites, "workers": len(sites)}
        return given

    @model_validator(mode="after")
    def _each_worker_has_a_site(self) -> Self:
        if self.sites is not None and len(self.sites) != self.workers:
            raise ValueError(f"--workers {self.workers}, but --sites has {len(self.sites)}; leave --workers out")
        return self

    @property
    def simulated_sites(self) -> SimulatedSites:
        """The sites, in the order of their turns."""
        return self.sites or SimulatedSites.numbered(self.workers)

    @model_validator(mode="after")
    def _scripts_run_as_processes(self) -> Self:
        if self.script is not None and self.broker is None:
            raise ValueError(
                "--script needs --broker or --over-rabbitmq: each worker of a script is a process of its own"
            )
        return self

    def of_aggregator(self) -> AggregatorSettings:
        """The same run, as an aggregator's settings."""
        state = self.state or Path("runs") / f"{self.run or Path(self.learns).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        own_queue = f"simulation-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]}"
        fields = {name: getattr(self, name) for name in RunSettings.model_fields}
        fields |= {"broker": self.broker} if self.broker else {}
        fields |= {
            "queue": self.queue or own_queue,
            "take_over": True,  # what is on the queue of this folder is its own
            "quorum": self.quorum or (Quorum.parse("100%") if self.is_sampled else Quorum(count=self.workers)),
            "run": self.run or "simulation",
            "state": state,
        }
        return settings_of(AggregatorSettings, fields)
