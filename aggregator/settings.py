"""All that can be set of an aggregator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, FilePath, model_validator

from aggregator.algorithms import ServerOptimizer, figures_of
from aggregator.config import AggregatorConfig, PartialConfig
from aggregator.corrections import step_of, weighting_of
from aggregator.masking import MaskingSettings, RingSum
from aggregator.noising import NoiseSettings, Noising
from aggregator.pairs import problems_of_pairs
from aggregator.plans import SCHEDULED, ScheduleSettings, schedule_of
from aggregator.presence import Sample
from aggregator.robust import Robust
from aggregator.rounds import ExactSum, NewAccumulator, OnShort, Quorum, RoundPolicy, kernel_for
from aggregator.senders import Admission, Allowed, Everybody
from aggregator.spool import Spool
from aggregator.state import Aim, BestBy, Ending
from aggregator.weighing import Weigher, WeightLimits
from broker import Correction, ServiceSettings, Shared, WireSettings
from broker.wire import (
    MAX_SHARDS,
    MAX_ZSTD_LEVEL,
    Compression,
    Downlink,
    LocalTraining,
    Masking,
    RunName,
    Specs,
    Topology,
)
from console import (
    Arguments,
    ArgumentsAsText,
    AsText,
    NoneAsText,
    PlanArgumentsAsText,
    settings_of,
)
from identities import Credentials, IdentitySettings
from learning import Direction
from learning.sums import read_condensed
from privacy import AdaptiveClip


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the root's shards, counted from 0."""

    index: int
    num_shards: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From ``I/N``. Anything else is a ValueError."""
        index, slash, num_shards = text.partition("/")
        if slash and index.isdecimal() and num_shards.isdecimal() and int(index) < int(num_shards) <= MAX_SHARDS:
            return cls(int(index), int(num_shards))
        raise ValueError(f"expected I/N with 0 <= I < N <= {MAX_SHARDS}, such as 0/2")

    def __str__(self) -> str:
        return f"{self.index}/{self.num_shards}"


def _number_as_text(value: object) -> object:
    """A YAML file may say ``quorum: 3``."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


SampleAsText = Annotated[AsText[Sample], BeforeValidator(_number_as_text)]
QuorumAsText = Annotated[AsText[Quorum], BeforeValidator(_number_as_text)]


_GIVEN_FILES = (
    *("script", "statistics", "tls_ca", "tls_cert", "tls_key"),
    *("roster", "roster_key", "key", "opening_key"),
)
"""Settings that name files, and the one that needs one of them."""


class RunSettings(WireSettings, ScheduleSettings, MaskingSettings, NoiseSettings, LocalTraining):  # type: ignore[misc]  # model_config: both say frozen, no other keys
    """What a run is: its rounds, its averaging, its local training. Shared with the simulation."""

    task: str = Field("digits", description="built-in task (digits, breast-cancer), module:object or file.py:object")
    script: FilePath | None = Field(
        None,
        description="training script with a loop of its own, over fedmq.rounds(model), in place of --task: it is run as"
        " far as that, for its model; its own flags come last, after --",
    )
    task_args: ArgumentsAsText = Field(
        Arguments(), description="name=value for the task here, in site.args, such as csv=/data/a.csv; once for each"
    )
    plan_args: PlanArgumentsAsText = Field(  # type: ignore[assignment]  # text becomes them; `local` has a dict again
        Arguments(flag="--plan-arg"),
        description="name=value for the task at every site, in plan.args, such as temperature=0.5; once for each",
    )
    init: Path | None = Field(
        None,
        description="safetensors file, such as another run's models/last.safetensors, whose tensors a new run begins"
        " with; by default with those of the task's own model",
    )
    evaluate_only: bool = Field(
        False,
        description="train nothing: all workers measure one model, that of --init or, where --state holds a run, its"
        " last; quorum, deadline and all else as in a round",
    )
    statistics: FilePath | None = Field(
        None,
        description="statistics.json of fl-statistics: what it says of all sites' samples is told to every task, in"
        " plan.statistics and prepare(), so that sites scale alike; a run keeps what it began with",
    )
    rounds: Annotated[int, Field(ge=1, lt=2**31)] = Field(20, description="number of rounds")
    deadline_s: Annotated[float, Field(gt=0)] | None = Field(
        600.0, description="seconds after which a round closes without its quorum; none: never"
    )
    min_updates: Annotated[int, Field(ge=1)] | None = Field(
        None, description="fewest updates that a round needs; by default 1, or as many as --robust needs"
    )
    on_short: Literal["extend", "accept", "abandon"] = Field(
        "extend",
        description="at the deadline with fewer updates: extend (wait on), accept (use them) or abandon (drop them)",
    )
    sample: SampleAsText | None = Field(
        None,
        description="workers that take part in a round, drawn anew for each: a share (0.1 or 10%), a count of those"
        " present (10), or 10x1.3 to ask 13 and close with 10; none: all",
    )
    grace_s: Annotated[float, Field(ge=0)] = Field(0.0, description="seconds a round stays open after its quorum")
    max_staleness: Annotated[int, Field(ge=0)] = Field(
        0,
        description="fold updates up to this many rounds late, weighted by 1/sqrt(1 + rounds late); 0: drop them",
    )
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
    compression: Annotated[AsText[Compression], NoneAsText] = Field(
        Compression(),
        description="how updates travel: none, float16, bfloat16, int8, or topk:0.01 (of each tensor, only this share"
        " of its elements, those that changed most); a worker adds what is left out to its next update",
    )
    zstd: Annotated[int, Field(ge=0, le=MAX_ZSTD_LEVEL)] = Field(
        0, description="level of the lossless zstd compression of updates, on top of --compression; 0: none"
    )
    downlink: Annotated[Downlink, NoneAsText] = Field(
        "none",
        description="how models travel to the workers: none (as they are), or bfloat16 (weights in half the bytes,"
        " rounded; the aggregator keeps the model in full, so that rounding does not add up; see docs/algorithms.md)",
    )
    shared: AsText[Shared] = Field(
        Shared(),
        description="tensors of the model that travel and are averaged: patterns of their names, separated by commas"
        " (body.*,!*.bias; ! leaves out), or trainable, for those that are trained; all others stay at each worker",
    )
    require_same_base: bool = Field(
        False,
        description="refuse updates that were trained with other frozen parameters than those here, where these do not"
        " travel (--shared trainable); by default they count, and a warning names their workers",
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
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="seed of the initial model and of every local training"
    )
    stop_metric: str | None = Field(
        None,
        description="stop early on this metric of the central evaluation, or on eval.NAME of the workers' evaluations,"
        " of which the median counts, with one vote a worker, if more than half of the workers in a round measure it",
    )
    stop_direction: Literal["min", "max"] | None = Field(
        None,
        description="whether a smaller (min) or a larger (max) value of that metric is better; by default its name"
        " decides: losses and errors are better when smaller, others when larger",
    )
    best_by: BestBy = Field(
        "median",
        description="what makes a model the best, where only the sites measure it: the median, with one vote a site, or"
        " their mean, weighted by the samples that each evaluated on, as far as --max-samples and --max-weight let it;"
        " --stop-metric goes by the median in any case",
    )
    stop_at: float | None = Field(None, description="stop once the metric is at least this good")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="stop after this many rounds without a better value of the metric; 0: never"
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
    part_bytes: Annotated[int, Field(ge=8, le=8 * 2**20, multiple_of=8)] = Field(
        8 * 2**20, description="bytes of each part in which a model above the inline cap travels"
    )

    @model_validator(mode="after")
    def _one_thing_is_trained(self) -> Self:
        if self.script is not None and self.task != type(self).model_fields["task"].default:
            raise ValueError("give --task or --script: a script has its own model, and trains in a loop of its own")
        return self

    @model_validator(mode="after")
    def _begins_from_safetensors(self) -> Self:
        if self.init is not None and self.init.suffix.lower() != ".safetensors":
            raise ValueError(
                f"--init {self.init}: it takes a .safetensors file; of a run, `fl-model export STATE --to"
                " model.safetensors` makes one, of a state dict `safetensors.torch.save_model`"
            )
        return self

    @property
    def learns(self) -> str:
        """What the run trains, as the ledger records it."""
        return self.task if self.script is None else self.script.name

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

    @model_validator(mode="after")
    def _early_stop_has_a_metric(self) -> Self:
        if self.stop_metric is None and (self.stop_at is not None or self.patience):
            raise ValueError("--stop-at and --patience need --stop-metric, such as --stop-metric accuracy")
        if self.stop_metric is None and self.stop_direction is not None:
            raise ValueError("--stop-direction needs --stop-metric, such as --stop-metric accuracy")
        return self

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
    def server_rate(self) -> float:
        """``server_lr``, or what the optimizer has for it."""
        return self.server_optimizer.step.server_lr if self.server_lr is None else self.server_lr

    @property
    def weigher(self) -> Weigher:
        """How updates are weighed, and what each has to say of itself for that and for the server's step."""
        asked = figures_of(self.server_optimizer.step)
        if self.dp_clip is not None and self.dp_clip.quantile is not None:
            asked = (*asked, "within")
        return replace(self.weighs_by, clip_norm=self.clip_norm, asked=asked)

    @property
    def weight_limits(self) -> WeightLimits:
        return WeightLimits(max_samples=self.max_samples, max_weight=self.max_weight)

    @property
    def aim(self) -> Aim:
        direction = None if self.stop_direction is None else Direction(self.stop_direction)
        return Aim(self.stop_metric, direction, self.best_by)

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

    @property
    def update_compression(self) -> Compression:
        """``compression``, and zstd on top of it."""
        return self.compression.model_copy(update={"zstd": self.zstd})


class AggregatorSettings(RunSettings, ServiceSettings, IdentitySettings):  # type: ignore[misc]
    """One aggregator: the root, which has the model, or the partial aggregator of one shard."""

    role: Literal["root", "partial"] = Field(
        "root", description="root: leads the run; partial: sums up the updates of one --shard for the root"
    )
    shards: Annotated[int, Field(ge=0, le=MAX_SHARDS)] = Field(
        0, description="for the root: number of shards, each summed up by its own partial aggregator; 0: none"
    )
    shard: AsText[Shard] | None = Field(
        None, description="for a partial: I/N, shard I, counted from 0, of the root's N --shards"
    )
    flush_s: Annotated[float, Field(gt=0)] = Field(
        0.2, description="for a partial: seconds without a new update after which it sends its sum"
    )

    compiled_fold: bool = Field(
        False,
        description="add up updates with compiled code, three times as fast, also where fedmq was installed without a C"
        " compiler; there it takes numba and 120 MB of memory",
    )
    quorum: QuorumAsText = Field(
        Quorum.parse("100%"),
        description="updates that close a round: a count (3), or a share of the workers present (80% or 0.8)",
    )
    workers_allowed: str | None = Field(
        None,
        description="workers that count: names or patterns, separated by commas (hospital-*,lab-3), or a file with one"
        " a line (a name with a dot or a slash), which is read again when it changes: who is no longer in it is out of"
        " the open round; by default all",
    )
    run: RunName = Field("federation", description="name of the run; a state directory belongs to one run")
    state: Path = Field(
        Path("state"), description="directory of models, ledger and summary, from which the run goes on"
    )

    opening_key: FilePath | None = Field(
        None,
        description="with --roster, the file NAME.opening.key of the aggregator that updates are sealed to; needed if"
        " --key is another's, as at a partial aggregator",
    )
    take_over: bool = Field(
        False,
        description="with an empty --state: go on with the open run of this name from the newest model on the broker;"
        " without --roster, whoever put it there",
    )
    trust_state: bool = Field(
        False,
        description="go on from --state even if the newest model on the broker is of a later start of the run: another"
        " directory's, after --take-over, or a forged one",
    )

    @model_validator(mode="after")
    def _role_has_what_it_needs(self) -> Self:
        if self.role == "partial" and self.shard is None:
            raise ValueError("--role partial needs --shard I/N, such as --shard 0/2")
        if self.role == "root" and self.shard is not None:
            raise ValueError("--shard is for --role partial; the root takes --shards N")
        return self

    @property
    def credentials(self) -> Credentials | None:
        known = super().credentials
        opening_keys = () if self.opening_key is None else (self.opening_key,)
        return None if known is None else replace(known, opening_keys=opening_keys)

    @property
    def config(self) -> AggregatorConfig:
        """What the root aggregator is to do, as nobody on a roster yet.

        A SettingsError where compiled code is asked for and cannot be had.
        """
        statistics = {} if self.statistics is None else read_condensed(self.statistics)
        return self._config(statistics, self.admission)

    def _config(self, statistics: Mapping[str, tuple[float, ...]], admission: Admission) -> AggregatorConfig:
        """With what files said at the start: they may be gone by the time that a setting changes."""
        return AggregatorConfig(
            run=self.run,
            task=self.learns,
            seed=self.seed,
            state=self.state,
            init=self.init,
            statistics=statistics,
            topology=self.topology,
            policy=self.policy,
            ending=Ending(
                rounds=self.rounds,
                aim=self.aim,
                stop_at=self.stop_at,
                patience=self.patience,
                only_evaluates=self.evaluate_only,
            ),
            weigher=self.weigher,
            weight_limits=self.weight_limits,
            local=self.local,
            schedules=self.schedules,
            compression=self.update_compression,
            downlink=self.downlink,
            shared=self.shared.patterns,
            sample=self.sample,
            robust=str(self.robust),
            step=step_of(self.correction) or self.server_optimizer.step,
            correction=self.correction,
            optimizer=self.server_optimizer.recorded,
            server_lr=self.server_rate,
            new_accumulator=self.new_accumulator,
            masking=self.masking,
            noising=self.noising,
            keeper_wait_s=self.keeper_wait_s,
            keep_every=self.keep_every,
            commit_every_s=self.commit_every_s,
            inline_cap=self.inline_cap,
            part_bytes=self.part_bytes,
            admission=admission,
            requires_same_base=self.require_same_base,
            takes_over=self.take_over,
            resets_step=self.server_state == "reset",
            trusts_state=self.trust_state,
            recorded=self.model_dump(mode="json", exclude={"broker", "token"})
            | {
                "server_lr": self.server_rate,
                "weighting": str(self.weighs_by),
                "min_updates": self.fewest_updates,
            },
            with_settings=lambda changes: self.changed(changes)._config(statistics, admission),
        )

    def changed(self, changes: Mapping[str, str]) -> "AggregatorSettings":
        """The same with other values of some settings, as people type them. A SettingsError if they are wrong.

        They are then without a schedule. Files that were given are not looked for again.
        """
        typed = {name: None if value == "none" else value for name, value in changes.items()}
        typed |= {schedule_of(name): None for name in changes if name in SCHEDULED}
        others = self.model_dump(exclude=set(_GIVEN_FILES)) | {"server_optimizer": self.server_optimizer}
        found = settings_of(AggregatorSettings, others | typed)
        return found.model_copy(update={name: getattr(self, name) for name in _GIVEN_FILES})

    @property
    def partial_config(self) -> PartialConfig:
        """What the partial aggregator of a shard is to do."""
        assert self.shard is not None
        return PartialConfig(
            run=self.run,
            root=Topology(self.queue),
            shard=self.shard.index,
            num_shards=self.shard.num_shards,
            flush_s=self.flush_s,
            new_sum=self.new_sum,
            inline_cap=self.inline_cap,
            part_bytes=self.part_bytes,
            admission=self.admission,
        )

    @property
    def new_accumulator(self) -> NewAccumulator:
        """Makes what the updates of a round are added to."""
        rule, masking = self.robust.rule, self.masking
        if masking is not None:
            return partial(RingSum, masking=masking)
        return self.new_sum if rule is None else partial(Spool, rule=rule, folder=self.state)

    @property
    def new_sum(self) -> Callable[[Specs], ExactSum]:
        """Makes an empty sum, which is added to by compiled code if there is any, or if that is asked for."""
        return partial(ExactSum, kernel=kernel_for(must_be_compiled=self.compiled_fold))

    @property
    def admission(self) -> Admission:
        """Who may count. A SettingsError where the list of workers cannot be read."""
        return Everybody() if self.workers_allowed is None else Allowed(self.workers_allowed)

    @property
    def topology(self) -> Topology:
        if self.shard is not None:
            return Topology(self.queue, shard=self.shard.index)
        return Topology(self.queue, num_shards=self.shards, keepers=tuple(self.keeper) if self.is_secure else ())

    @property
    def policy(self) -> RoundPolicy:
        return RoundPolicy(
            quorum=self.quorum,
            deadline_s=self.deadline_s,
            grace_s=self.grace_s,
            min_updates=self.fewest_updates,
            on_short=OnShort(self.on_short),
            max_staleness=self.max_staleness,
        )
