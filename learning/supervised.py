"""Supervised learning from three things: a model, the data of a site, and a loss.

At module level, `task = Supervised(model=..., data=..., loss=...)` is a complete `--task file.py:task`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from console import TaskError
from learning.evaluation import evaluate
from learning.split import Samples, Scaling, Split, count
from learning.task import Plan, Site
from learning.training import Loss, MakeOptimizer, sgd, train

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """A supervised problem at any site; calling it with a Site gives the Task there.

    `data(site)` returns the site's Split; for the aggregator's site (`site.is_aggregator`) that is the
    central test data, `Split(test=...)`, or `Split()` when there are none. It is called at first use, once.
    `loss(outputs, targets)` returns the mean over the samples of a batch.
    """

    model: Callable[[], nn.Module]
    data: Callable[[Site], Split]
    loss: Loss
    accuracy: bool = True
    """Report `accuracy` where outputs are class scores along dimension 1 and targets are integers."""
    optimizer: MakeOptimizer = sgd
    features: Sequence[str] = ()
    """The names of the inputs' features, for their statistics."""
    normalise: bool = False
    """Scale inputs by the mean and standard deviation of all sites' samples, as the run has them (`--statistics`)."""

    def __call__(self, site: Site) -> "SupervisedTask":
        return SupervisedTask(self, site)


class SupervisedTask:
    """A supervised problem at one site: a Task."""

    def __init__(self, problem: Supervised, site: Site) -> None:
        self.problem = problem
        self.site = site
        self._scaling: Scaling | None = None
        self._scaled: dict[str, Samples | None] = {}

    @cached_property
    def split(self) -> Split:
        split = self.problem.data(self.site)
        where, num_train, num_test = self.site.name or "aggregator", count(split.train), count(split.test)
        log.debug("%s has %d training and %d test samples", where, num_train, num_test)
        return split

    def prepare(self, statistics: Mapping[str, Tensor]) -> None:
        """Takes what is known of all sites' samples, before the run begins here."""
        self._scaled = {}
        self._scaling = None
        if self.problem.normalise and statistics:
            self._scaling = Scaling(statistics["mean"], statistics["std"])
        elif self.problem.normalise:
            log.warning("inputs are not scaled: the run has no statistics; fl-statistics takes them, see --statistics")

    def _samples(self, name: Literal["train", "test"]) -> Samples | None:
        """Samples as the model gets them; scaled once."""
        samples: Samples | None = getattr(self.split, name)
        if self._scaling is None or samples is None or not count(samples):
            return samples
        if name not in self._scaled:
            self._scaled[name] = self._scaling.of(samples)
        return self._scaled[name]

    def has_samples(self) -> bool:
        """Whether there is anything to train on."""
        return count(self.split.train) > 0

    def model(self) -> nn.Module:
        return self.problem.model()

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        """See learning.training. Raises TaskError when the site has no training samples."""
        samples = self._samples("train")
        if samples is None or count(samples) == 0:
            raise TaskError(f"site {self.site.name!r} has no training samples; give it data or stop its worker")
        before: dict[str, float] = {}
        if "loss_before" in plan.figures:
            model.to(plan.device)
            before["loss_before"] = evaluate(model, samples, loss=self.problem.loss, accuracy=False)["loss"]
        trained = train(model, samples, plan, loss=self.problem.loss, make_optimizer=self.problem.optimizer)
        return trained | before

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """See learning.evaluation; `{}` when the site has no test samples."""
        samples = self._samples("test")
        if samples is None or count(samples) == 0:
            return {}
        return evaluate(model, samples, loss=self.problem.loss, accuracy=self.problem.accuracy)
