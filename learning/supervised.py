"""Supervised learning from three things: a model, the data of a site, and a loss.

At module level, `task = Supervised(model=..., data=..., loss=...)` is a complete `--task file.py:task`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from console import TaskError
from learning.evaluation import evaluate
from learning.split import Split, count
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

    def __call__(self, site: Site) -> "SupervisedTask":
        return SupervisedTask(self, site)


class SupervisedTask:
    """A supervised problem at one site: a Task."""

    def __init__(self, problem: Supervised, site: Site) -> None:
        self.problem = problem
        self.site = site

    @cached_property
    def split(self) -> Split:
        split = self.problem.data(self.site)
        where, num_train, num_test = self.site.name or "aggregator", count(split.train), count(split.test)
        log.debug("%s has %d training and %d test samples", where, num_train, num_test)
        return split

    def has_samples(self) -> bool:
        """Whether there is anything to train on."""
        return count(self.split.train) > 0

    def model(self) -> nn.Module:
        return self.problem.model()

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        """See learning.training. Raises TaskError when the site has no training samples."""
        samples = self.split.train
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
        samples = self.split.test
        if samples is None or count(samples) == 0:
            return {}
        return evaluate(model, samples, loss=self.problem.loss, accuracy=self.problem.accuracy)
