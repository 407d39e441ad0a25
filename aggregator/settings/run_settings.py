"""What a run is, in all that simulation and aggregator can be told of it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from aggregator.algorithms import figures_of
from aggregator.corrections import weighting_of
from aggregator.masking import MaskingSettings
from aggregator.noising import NoiseSettings, Noising
from aggregator.pairs import problems_of_pairs
from aggregator.plans import ScheduleSettings
from aggregator.presence import Sample
from aggregator.settings.averaging import AveragingSettings
from aggregator.settings.closing import ClosingSettings
from aggregator.settings.ending import EndingSettings
from aggregator.settings.learned import LearnedSettings
from aggregator.settings.travelling import TravellingSettings
from aggregator.weighing import Weigher
from broker import WireSettings
from broker.wire import LocalTraining, Masking
from privacy import AdaptiveClip


class RunSettings(  # type: ignore[misc]  # model_config: all say frozen, no other keys; plan_args: text becomes them
    WireSettings,
    EndingSettings,
    AveragingSettings,
    TravellingSettings,
    ClosingSettings,
    LearnedSettings,
    ScheduleSettings,
    MaskingSettings,
    NoiseSettings,
    LocalTraining,
):
    """What a run is: its rounds, its averaging, its local training. Shared with the simulation."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="seed of the initial model and of every local training"
    )
    keep_every: Annotated[int, Field(ge=0)] = Field(
        0, description="keep the model of every N-th round, besides the last and the best; 0: only those two"
    )
    commit_every_s: Annotated[float, Field(gt=0)] = Field(
        30.0, description="longest time between commits of an open round, in seconds"
    )
    tensorboard: Path | None = Field(
        None, description="folder for a TensorBoard log of the rounds; needs fedmq[tensorboard]"
    )
    mlflow: str | None = Field(None, description="URI of an MLflow to log the run to; needs fedmq[mlflow]")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        problems = problems_of_pairs(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def weighs_by(self) -> Weigher:
        """As the correction needs it; else ``weighting``, or what it is if nobody said."""
        of_correction = weighting_of(self.correction)
        if of_correction is not None:
            return Weigher(of_correction)
        is_usual = self.robust.rule is None and not self.is_noised
        return self.weighting or Weigher.parse("samples" if is_usual else "uniform")

    @property
    def fewest_updates(self) -> int:
        """``min_updates``, or what it is if nobody said."""
        return self.min_updates or (self.min_sites if self.is_secure else self.robust.fewest)

    @property
    def unscheduled(self) -> Mapping[str, Any]:
        return dict(self) if self.server_lr_schedule is None else dict(self) | {"server_lr": self.server_rate}

    @property
    def is_sampled(self) -> bool:
        """Whether only some of the workers take part in a round."""
        return self.sample is not None or self.sample_schedule is not None

    @property
    def least_sample(self) -> Sample | None:
        """The sample of the round in which the fewest are asked; None: everybody, in every round."""
        scheduled = self.schedules.get("sample")
        return self.sample if scheduled is None else Sample.parse(scheduled.typed(scheduled.bounds()[0]))

    def local_in(self, number: int) -> LocalTraining:
        """What sites are asked for in this round, as long as nobody asks for anything else."""
        scheduled = {name: each.at(number) for name, each in self.schedules.items()}
        return self.local.model_copy(
            update={name: value for name, value in scheduled.items() if name in LocalTraining.model_fields}
        )

    @property
    def weigher(self) -> Weigher:
        """How updates are weighed, and what each has to say of itself for that and for the server's step."""
        asked = figures_of(self.server_optimizer.step)
        if self.dp_clip is not None and self.dp_clip.quantile is not None and not self.is_secure:
            asked = (*asked, "within")
        return replace(self.weighs_by, clip_norm=self.clip_norm, asked=asked)

    @property
    def local(self) -> LocalTraining:
        fields = {name: getattr(self, name) for name in LocalTraining.model_fields}
        return LocalTraining(**fields | {"plan_args": dict(self.plan_args)})

    @property
    def masking(self) -> Masking | None:
        """How workers mask their updates; None: they do not."""
        masking = self.masking_of(goes_by_samples=self.weighs_by.goes_by_samples, max_samples=self.max_samples)
        if masking is None or not self.is_noised:
            return masking
        return masking.model_copy(update={"metrics": ()})  # they would be without noise

    @property
    def noising(self) -> Noising | None:
        """How the run's models are noised; None: they are not."""
        if self.dp_clip is None:
            return None
        where: Literal["central", "keeper", "local"] = "keeper" if self.is_secure else "central"
        quantile = self.dp_clip.quantile
        return Noising(
            budget=self.budget,
            where="local" if self.dp_where == "workers" else where,
            adaptive=None if quantile is None else AdaptiveClip(quantile=quantile, start=self.dp_clip.start),
        )
