"""All that can be set of a worker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, FilePath, field_validator, model_validator

from broker import ServiceSettings, Shared
from broker.wire import MAX_PRESENCE_EVERY_S, MIN_PRESENCE_EVERY_S, PRESENCE_EVERY_S, RunName
from console import Arguments, ArgumentsAsText, AsText, Names, NoneAsText
from identities import IdentitySettings
from learning import Site
from worker.device import Devices
from worker.policy import DEFAULT_MAX_DELTA, Requirement, WorkerPolicy

_NONE = "none"


@dataclass(frozen=True, slots=True)
class Part:
    """One of several disjoint parts of a data set, counted from 0."""

    index: int
    num_parts: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """From ``I/N``. Anything else is a ValueError."""
        index, slash, num_parts = text.partition("/")
        if slash and index.isdecimal() and num_parts.isdecimal() and int(index) < int(num_parts):
            return cls(int(index), int(num_parts))
        raise ValueError("expected I/N with 0 <= I < N, such as 0/8")

    def __str__(self) -> str:
        return f"{self.index}/{self.num_parts}"


@dataclass(frozen=True, slots=True)
class Protections:
    """What a run has to do for its updates."""

    names: frozenset[Requirement] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Protections":
        """From ``none``, or names with commas between. Anything else is a ValueError."""
        names = set() if text == _NONE else {name.strip() for name in text.split(",")}
        known: set[Requirement] = {"signed", "sealed", "secure", "dp"}
        if not names <= known:
            raise ValueError(
                f"expected some of signed, sealed, secure and dp, with commas between, or none, not {text!r}"
            )
        return cls(frozenset(known & names))

    def __str__(self) -> str:
        return ",".join(sorted(self.names)) or _NONE


NameOrBeginning = Annotated[str, Field(pattern=r"^([A-Za-z0-9_-]{1,64}|[A-Za-z0-9_-]{0,32}\*)$")]
"""A worker's name, or what it begins with and an asterisk."""


class WorkerSettings(ServiceSettings, IdentitySettings):
    """One worker at one site."""

    task: str = Field("digits", description="built-in task (digits, breast-cancer), module:object or file.py:object")
    script: FilePath | None = Field(
        None,
        description="training script with a loop of its own, over fedmq.rounds(model), in place of --task; its own"
        " flags come last, after --; it trains where, and with as many threads, as it says itself",
    )
    task_args: ArgumentsAsText = Field(
        Arguments(), description="name=value for this site's task, in site.args, such as csv=/data/a.csv; once for each"
    )
    name: NameOrBeginning | None = Field(
        None,
        description="name of this worker: letters, digits, - and _; by default the machine's, which must be unique;"
        " site-*: site- and the machine's, for several workers that share a user of the broker",
    )
    run: RunName | None = Field(None, description="take part in this run only, and wait for it; by default in any run")
    device: AsText[Devices] = Field(
        Devices("auto"),
        description="auto (a GPU if there is one), cpu, cuda, cuda:1 or mps; cuda:0,1: two GPUs, each with its part of"
        " every batch (docs/gpus.md)",
    )
    deterministic: bool = Field(
        False,
        description="train with PyTorch's deterministic algorithms: the same bits each time on the same kind of GPU;"
        " an operation that has none is an error",
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        1, description="CPU threads to train with; 1 gives the same bits on any machine, 0 takes all cores"
    )
    partition: str = Field(
        "iid", description="how a shared data set is spread over sites: iid, dirichlet:0.5, shards:2 or draws:20"
    )
    site: AsText[Part] | None = Field(
        None,
        description="I/N: part I, counted from 0, of N disjoint parts; by default the part follows from the name alone",
    )
    partition_seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="seed of the partition; must be the same at all sites"
    )
    state: Path | None = Field(
        None,
        description="directory for what is carried from round to round when a run compresses updates or does not"
        " share all tensors, or a task writes to plan.memory; for noise that the worker adds itself, and what that has"
        " cost; and, with --roster, for the newest model seen, so that no older one is taken for it; without one, a"
        " restart loses them",
    )
    keep_results: bool = Field(
        True,
        description="with --state: keep the best and the last model as they stand at this site, and its evaluation of"
        " every round, below the run's directory there",
    )
    save_model: Path | None = Field(
        None,
        description="file for the final model as it stands at this site, with its own tensors, written when the run is"
        " finished: NAME.safetensors",
    )
    presence_every_s: float = Field(
        PRESENCE_EVERY_S,
        description=f"seconds between signs of life, {MIN_PRESENCE_EVERY_S:g} to {MAX_PRESENCE_EVERY_S:g};"
        " with more than 500 workers present, the aggregator asks for longer ones, and the longer of the two counts;"
        " a worker that is silent for 3.5 times as long, and for 35 s, counts as gone",
    )
    require: Annotated[AsText[Protections], NoneAsText] = Field(
        Protections(),
        description="answer only runs with this protection, such as secure,dp: signed and sealed updates, secure"
        " aggregation, differential privacy; none: any run",
    )
    min_sites: Annotated[int, Field(ge=0, lt=2**20)] = Field(
        0,
        description="do not answer a run that lets anybody see updates, or their sum, of fewer sites than these; 0:"
        " answer any, but see --require secure",
    )
    keeper: AsText[Names] = Field(
        Names(),
        description="answer only a run that masks updates for these keepers of the roster, separated by commas, and"
        " perhaps for others; by default for any that the run names",
    )
    max_epsilon: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None,
        description="the largest epsilon that a run may have as its privacy budget to be answered; a run without"
        " differential privacy is not answered, either; by default any run is",
    )
    max_delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        DEFAULT_MAX_DELTA, description="with --max-epsilon: the largest delta at which the run's epsilon may hold"
    )
    max_steps_at_least: Annotated[int, Field(ge=0)] = Field(
        0, description="do not answer a run that limits local training to fewer optimizer steps; 0: answer any"
    )
    min_batch: Annotated[int, Field(ge=0)] = Field(
        0, description="do not answer a run that asks for smaller local batches; 0: answer any"
    )
    allow_shared: AsText[Shared] = Field(
        Shared(),
        description="tensors that may leave this site: patterns, as for the aggregator's --shared; a run that shares"
        " others is not answered",
    )
    stay: bool = Field(
        False, description="when a run is finished, wait for more of it or for the next one; by default leave"
    )
    check: bool = Field(
        False,
        description="only check the settings, with --roster also whether the key is on it, and that the broker and the"
        " queue are there; exit code 0 if so",
    )

    @field_validator("save_model")
    @classmethod
    def _the_model_can_be_saved_there(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix != ".safetensors":
            raise ValueError(f"expected a file name that ends in .safetensors, not {path.name!r}")
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise ValueError(f"{path} is a directory, or its directory is not there")
        return path

    @field_validator("presence_every_s")
    @classmethod
    def _signs_of_life_come_in_time(cls, seconds: float) -> float:
        if not MIN_PRESENCE_EVERY_S <= seconds <= MAX_PRESENCE_EVERY_S:
            raise ValueError(
                f"expected {MIN_PRESENCE_EVERY_S:g} to {MAX_PRESENCE_EVERY_S:g} seconds: a sign of life stays on its"
                f" queue for {MAX_PRESENCE_EVERY_S:g} s, and another must be there by then"
            )
        return seconds

    @model_validator(mode="after")
    def _what_is_required_can_be_had(self) -> Self:
        given = {"--require": self.require.names, "--min-sites": self.min_sites, "--keeper": self.keeper}
        given["--max-epsilon"] = self.max_epsilon
        flag = next((flag for flag, value in given.items() if value), None)
        if flag is not None and self.roster is None:
            raise ValueError(f"{flag} needs --roster: without one nothing is signed, and any model could claim it")
        return self

    @model_validator(mode="after")
    def _one_thing_is_trained(self) -> Self:
        if self.script is not None and self.task != type(self).model_fields["task"].default:
            raise ValueError("give --task or --script: a script has its own model, and trains in a loop of its own")
        return self

    @property
    def policy(self) -> WorkerPolicy:
        """What this site asks of a run before it answers."""
        return WorkerPolicy(
            require=self.require.names,
            min_sites=self.min_sites,
            keepers=frozenset(self.keeper),
            max_epsilon=self.max_epsilon,
            max_delta=self.max_delta,
            min_steps=self.max_steps_at_least,
            min_batch=self.min_batch,
            allow_shared=self.allow_shared.patterns,
        )

    @property
    def own_name(self) -> str | None:
        """The name as given, or else that of the key; None if some of it, or all, is to be the machine's."""
        if self.name is None:
            return self.credentials.name() if self.credentials else None
        return None if self.name.endswith("*") else self.name

    @property
    def name_prefix(self) -> str:
        """What a name made of the machine's begins with."""
        return (self.name or "").removesuffix("*")

    def site_of(self, name: str) -> Site:
        """Where this worker's task runs."""
        index, num_sites = (self.site.index, self.site.num_parts) if self.site else (None, None)
        return Site(
            name=name,
            partition=self.partition,
            index=index,
            num_sites=num_sites,
            seed=self.partition_seed,
            args=self.task_args,
        )
