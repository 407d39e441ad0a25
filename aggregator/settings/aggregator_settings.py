"""All that can be set of an aggregator, and what its services take of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, FilePath, model_validator

from aggregator.config import AggregatorConfig, PartialConfig
from aggregator.corrections import step_of
from aggregator.masking import RingSum
from aggregator.plans import SCHEDULED, schedule_of
from aggregator.rounds import ExactSum, NewAccumulator, OnShort, Quorum, RoundPolicy, kernel_for
from aggregator.senders import Admission, Allowed, Everybody
from aggregator.settings.closing import QuorumAsText
from aggregator.settings.run_settings import RunSettings
from aggregator.settings.shard import Shard
from aggregator.spool import Spool
from aggregator.state import Ending
from broker import ServiceSettings
from broker.wire import MAX_SHARDS, RunName, Specs, Topology
from console import AsText, settings_of
from identities import Credentials, IdentitySettings
from learning.sums import read_condensed

_GIVEN_FILES = (
    *("script", "statistics", "tls_ca", "tls_cert", "tls_key"),
    *("roster", "roster_key", "key", "opening_key"),
)
"""Settings that name files, and the one that needs one of them."""


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
