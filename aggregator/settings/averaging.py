"""How updates are averaged, and what the mean does to the model."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aggregator.algorithms import ServerOptimizer
from aggregator.robust import Robust
from aggregator.weighing import Weigher, WeightLimits
from broker import Correction
from console import AsText, NoneAsText


class AveragingSettings(BaseModel):
    """Mixed into the settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weighting: AsText[Weigher] | None = Field(
        None,
        description="what an update weighs in the mean (docs/algorithms.md): samples (its number of samples), uniform"
        " (all alike), fednova (samples per local step), qfedavg:q=1 (its loss to the power of q), or"
        " task (what its task says); by default samples, and uniform with --robust",
    )
    robust: Annotated[AsText[Robust], NoneAsText] = Field(
        Robust(),
        description="rule in place of the mean, that a minority of false updates cannot lead astray: median,"
        " trimmed:0.2, krum:f=2,m=6, bulyan:f=1 or geometric-median; each update is kept on the disk until its round"
        " closes; none: the mean",
    )
    clip_norm: Annotated[float, Field(gt=0, lt=float("inf"))] | None = Field(
        None,
        description="norm of an update, over the trained parameters, up to which it counts in full; a longer one counts"
        " as one of this length; none: no limit",
    )
    max_samples: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="most samples that an update counts for: one with more weighs as if it had this many; none: all",
    )
    max_weight: Annotated[float, Field(ge=1)] | None = Field(
        None,
        description="most weight of one update, in multiples of the median number of samples of the last round's"
        " updates; the first round goes by --max-samples alone; none: no limit",
    )
    server_optimizer: AsText[ServerOptimizer] = Field(
        ServerOptimizer(),
        description="what the mean update does to the model: fedavg, fedavgm, diloco, fedadam, fedyogi, fedadagrad,"
        " fedams or fedexp, with parameters as NAME:key=value,… (fedavgm:momentum=0.7; see docs/algorithms.md), or your"
        " own as path/file.py:object; it moves trained parameters, while buffers and integers move by the mean",
    )
    correction: Annotated[AsText[Correction], NoneAsText] = Field(
        Correction(),
        description="what workers do against the drift of local training (docs/algorithms.md): none, scaffold,"
        " feddyn:alpha=0.1, or ditto:lam=0.1, which trains a personal model besides; they carry state from round to"
        " round for it, and need their --state",
    )
    server_lr: Annotated[float, Field(gt=0, lt=float("inf"))] | None = Field(
        None,
        description="the server's learning rate, a factor on each step; by default that of the server's optimizer: 1 of"
        " fedavg, fedavgm and fedexp, 0.7 of diloco, 0.1 of fedadagrad, 0.03 of fedadam and fedams, 0.01 of fedyogi",
    )
    server_state: Literal["keep", "reset"] = Field(
        "keep",
        description="where a run began with another --server-optimizer: keep (refuse to go on) or reset (go on with the"
        " new one, which remembers nothing yet and begins with the open round)",
    )

    @property
    def server_rate(self) -> float:
        """``server_lr``, or what the optimizer has for it."""
        return self.server_optimizer.step.server_lr if self.server_lr is None else self.server_lr

    @property
    def weight_limits(self) -> WeightLimits:
        return WeightLimits(max_samples=self.max_samples, max_weight=self.max_weight)
