"""What federation is compared with: sites that train alone, and all data in one place."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from broker.modules import ModelTensors
from broker.states import State
from broker.wire import LocalTraining
from console import Arguments, TaskError
from learning import Measured, Site, Task, evaluating, has_samples, load_task, made_by, numbers_of
from simulation.sites import SimulatedSites
from worker import Trainer, derived_seed, plan_of

_SAME_DATA = 0.05
"""Held-out parts are rounded site by site, so the sites' sizes together differ a little from that of all data."""
_MAX_SINGLE_SITES = 10
"""Their mean is reported; training a thousand sites would take as long as the run itself."""


@dataclass(frozen=True, slots=True)
class Alone:
    """A model trained without federation, evaluated on the central test data."""

    num_samples: int
    """The number of samples that it was trained on."""
    measured: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """How to train without federation: as long as a site in the run, as often, and with the same settings."""

    task: str
    partition: str
    sites: SimulatedSites
    task_args: Arguments = field(default_factory=Arguments)
    rounds: int
    seed: int
    local_in: Callable[[int], LocalTraining]
    """What is asked for in a round."""
    initial: State
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What tasks are told of all sites' samples."""

    def single_sites(self, judge: Task) -> Iterator[Alone]:
        """Sites trained alone, evaluated on ``judge``'s test data: every site, or a sample if there are many."""
        for index in sampled_sites(self.num_sites):
            site = self.sites.site(index, self.partition, self.task_args)
            if has_samples(task := load_task(self.task, site, own=True)):
                yield self._train(site, task, judge)

    def pooled(self, judge: Task) -> Alone:
        """A model trained on all data in one place."""
        site = Site(name="pooled", index=0, num_sites=1, args=self.task_args)
        return self._train(site, load_task(self.task, site, own=True), judge)

    @property
    def num_sites(self) -> int:
        return len(self.sites)

    def _train(self, site: Site, task: Task, judge: Task) -> Alone:
        trainer = Trainer(task)
        statistics = trainer.prepare(self.statistics)
        state, num_samples = self.initial, 0
        for number in range(1, self.rounds + 1):
            seed = derived_seed(self.seed, number, site.name or "")
            plan = plan_of(
                self.local_in(number), round=number, num_rounds=self.rounds, seed=seed, statistics=statistics
            )
            trained = trainer.train(state, plan)
            num_samples = trained.num_samples
            state = {name: _moved(tensor, trained.delta.get(name)) for name, tensor in state.items()}
        model = made_by(judge.model)
        ModelTensors.of(model).put_into(model, state)
        with evaluating(model):
            metrics = numbers_of(judge.evaluate(model), "evaluate")
        return Alone(num_samples, Measured.of(metrics))


def sampled_sites(num_sites: int) -> list[int]:
    """The sites that are trained alone: all if there are few, else ten, evenly spread."""
    number = min(num_sites, _MAX_SINGLE_SITES)
    return [place * num_sites // number for place in range(number)]


def compare(baseline: Baseline, judge: Task, *, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Both baselines, as ``summary.json`` has them. ``pooled`` is there only if a single place can hold the same data;
    else ``no_pooled`` says why not."""
    sites: list[Alone] = []
    for alone in baseline.single_sites(judge):
        sites.append(alone)
        on_step(f"site {len(sites)} of {len(sampled_sites(baseline.num_sites))} alone")
    result: dict[str, Any] = {
        "single_sites": [alone.measured.recorded() for alone in sites],
        "num_sites": baseline.num_sites,
        "single_mean": _mean(sites),
    }
    num_samples = fmean(alone.num_samples for alone in sites) * baseline.num_sites
    try:
        pooled = baseline.pooled(judge)
    except TaskError as error:  # a task that reads files of its site's has none for a site that is all sites
        result["no_pooled"] = f"no comparison with all data in one place: {error}"
    else:
        if abs(pooled.num_samples - num_samples) <= _SAME_DATA * num_samples + baseline.num_sites:
            result["pooled"] = pooled.measured.recorded()
        else:
            result["no_pooled"] = (
                f"no comparison with all data in one place: there the task has {pooled.num_samples:,} samples, and"
                f" the sites together have about {num_samples:,.0f}"
            )
    on_step(result.get("no_pooled", "all data in one place"))
    return result


def _mean(sites: list[Alone]) -> dict[str, float]:
    return {name: fmean(alone.measured.metrics[name] for alone in sites) for name in sites[0].measured.metrics}


def _moved(tensor: torch.Tensor, delta: torch.Tensor | None) -> torch.Tensor:
    return tensor if delta is None else (tensor + delta).to(tensor.dtype)
