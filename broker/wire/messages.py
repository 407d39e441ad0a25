"""The headers of all messages: frozen, validated, versioned. What they may contain is defined here and nowhere else."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictBytes,
    StrictInt,
    StrictStr,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from broker.wire.headers import (
    COMPRESSIONS,
    MAX_ANSWER,
    MAX_ANSWERS,
    MAX_COMMAND_WORDS,
    MAX_EXCLUDED,
    MAX_FOLDED,
    MAX_KEEPERS,
    MAX_LISTED,
    MAX_NUM_SAMPLES,
    MAX_PART_BYTES,
    MAX_PRESENCE_EVERY_S,
    MAX_SEED_BYTES,
    MAX_SHARDS,
    MAX_TENSORS,
    MAX_WORD,
    MAX_ZSTD_LEVEL,
    MIN_PRESENCE_EVERY_S,
    PRESENCE_EVERY_S,
    AlgorithmText,
    Blake3,
    CommandId,
    Counted,
    DifferentialPrivacy,
    Downlink,
    Draw,
    FigureName,
    Figures,
    Header,
    Instance,
    Masking,
    Metrics,
    NotFinite,
    Objection,
    Outcome,
    PlanArguments,
    Protection,
    Purpose,
    RoundNumber,
    RunId,
    RunName,
    Salt,
    SealedKey,
    Seconds,
    Sha256,
    SharedPatterns,
    Statistics,
    WorkerName,
    WorkerPattern,
    last_counted,
)
from broker.wire.limbs import limb_bytes_of
from broker.wire.specs import MAX_TENSOR_NAME, BodyDigest, KeptSpecs, Specs, canonical, kept, num_bytes_of, update_specs
from broker.wire.tensor_sets import MODEL, split_specs
from broker.wire.topology import shard_of

Operation = Literal["sum", "min", "max"]
"""How the tensors of several updates become one, element by element, where it is no mean."""
Operations = Annotated[
    dict[Annotated[StrictStr, Field(min_length=1, max_length=MAX_TENSOR_NAME)], Operation], Field(max_length=1000)
]


Seeds = Annotated[tuple[Annotated[StrictBytes, Field(max_length=MAX_SEED_BYTES)], ...], Field(max_length=MAX_KEEPERS)]

_INTERVALS_TO_BE_GONE = 3.5
"""Intervals between signs of life, after which a worker without one is gone."""


class LocalTraining(Header):
    """How the aggregator wants sites to train; sent with each model."""

    epochs: int = Field(2, ge=1, le=100_000, description="local epochs a round")
    batch_size: int = Field(32, ge=0, le=2**31, description="local batch size; 0: all data of the site as one batch")
    lr: float = Field(0.05, gt=0, le=1e6, description="local learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="local momentum")
    mu: float = Field(
        0.0, ge=0, le=1e6, description="coefficient of FedProx's proximal term (Li et al. 2020, eq. 2); 0: none"
    )
    max_steps: int = Field(
        0, ge=0, le=2**31, description="maximum number of local optimizer steps a round; 0: no limit"
    )
    plan_args: PlanArguments = Field(default={}, exclude_if=lambda arguments: not arguments)
    """Options of this run's own, for its task."""


class Compression(Header):
    """How the updates of a run travel; sent with each model. What each method does is in compression.py."""

    method: Literal["none", "float16", "bfloat16", "int8", "topk"] = "none"
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """For ``topk``: the share of a tensor's elements that travels."""
    zstd: Annotated[StrictInt, Field(ge=0, le=MAX_ZSTD_LEVEL)] = 0
    """Level of the lossless compression of each message body or part; 0: none."""

    @classmethod
    def parse(cls, text: str, *, zstd: int = 0) -> Self:
        """From ``none``, ``float16``, ``bfloat16``, ``int8`` or ``topk:SHARE``. Anything else is a ValueError.

        A share is rounded to the six digits that ``text`` shows.
        """
        method, colon, share = text.partition(":")
        if method not in COMPRESSIONS or (method == "topk") != bool(colon):
            raise ValueError(f"expected {', '.join(COMPRESSIONS)}:SHARE (such as topk:0.01), not {text!r}")
        try:
            return cls.model_validate(
                {"method": method, "share": _shown(float(share)) if colon else None, "zstd": zstd}
            )
        except ValueError as error:
            raise ValueError(f"a share is a number above 0 and at most 1, as in topk:0.01, not {share!r}") from error

    @property
    def text(self) -> str:
        """What ``parse`` takes."""
        return self.method if self.share is None else f"{self.method}:{self.share:g}"

    def __str__(self) -> str:
        return self.text + (f" with zstd {self.zstd}" if self.zstd else "")

    @model_validator(mode="after")
    def _a_share_belongs_to_topk(self) -> Self:
        if (self.method == "topk") != (self.share is not None):
            raise ValueError("topk needs a share, and no other method takes one")
        return self


def _shown(share: float) -> float:
    """The share as it is when read back from its text."""
    return float(f"{share:g}")


class BlobRef(Header):
    """A body that travels apart, in parts of ``part_bytes`` (a multiple of 8); the last may be shorter.

    With zstd, each part is compressed on its own; ``part_bytes`` is its size before that.
    """

    name: Annotated[StrictStr, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.-]+$")]
    part_bytes: Annotated[StrictInt, Field(ge=8, le=MAX_PART_BYTES, multiple_of=8)]

    def num_parts(self, num_bytes: int) -> int:
        return -(-num_bytes // self.part_bytes)


def _not_the_model(name: str) -> str:
    if name == "model":
        raise ValueError("the model's set is always there, and is not listed")
    return name


SetName = Annotated[StrictStr, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$"), AfterValidator(_not_the_model)]


def _valid_specs(given: Any, validate: ValidatorFunctionWrapHandler) -> KeptSpecs:
    if isinstance(given, KeptSpecs) and given.is_valid:
        return given
    validated: Specs = validate(given)
    if len({spec.name for spec in validated}) != len(validated):
        raise ValueError("two tensors have the same name")
    if canonical(validated) != validated:
        raise ValueError("tensors are not in canonical order (item size, largest first, then name)")
    specs = given if isinstance(given, KeptSpecs) else KeptSpecs(validated)
    specs.is_valid = True
    return specs


class Tensors(Header):
    """The part of a header that describes its payload."""

    tensors: Annotated[Specs, Field(max_length=MAX_TENSORS), WrapValidator(_valid_specs)]
    sha256: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    """Over ``tensors`` and the payload; over its parts as they travel if the body is sealed."""
    blake3: Blake3 | None = Field(default=None, exclude_if=lambda value: value is None)
    """The same by BLAKE3. One of the two is there; with both, a receiver needs only this."""
    blob: BlobRef | None = None
    """None: the payload follows the header in the same message."""
    sets: Annotated[tuple[SetName, ...], Field(max_length=16)] = Field(default=(), exclude_if=lambda sets: not sets)
    """Sets of tensors besides the model's, see tensor_sets.py; left out of the bytes if there are none."""

    @property
    def num_bytes(self) -> int:
        return num_bytes_of(self.tensors)

    @property
    def digest(self) -> BodyDigest:
        """By which the body is checked."""
        if self.blake3 is not None:
            return BodyDigest("blake3", self.blake3)
        assert self.sha256 is not None
        return BodyDigest("sha256", self.sha256)

    @model_validator(mode="after")
    def _has_a_digest(self) -> Self:
        if self.sha256 is None and self.blake3 is None:
            raise ValueError("its body has no digest: neither sha256 nor blake3")
        return self


class ModelHead(Tensors):
    """The newest global model: train from it for round ``round``; or the final one, when ``is_finished``.

    ``blake3`` is there as well if the model is large: workers use it then, and know that it is read in their answers.
    """

    may_be_deflated: ClassVar[bool] = True
    sha256: Sha256
    kind: Literal["model"] = "model"
    run: RunName
    run_id: RunId
    epoch: RoundNumber
    """Goes up each time the aggregator starts; a head of a smaller epoch is a zombie's."""
    round: RoundNumber
    num_rounds: RoundNumber
    is_finished: StrictBool = False
    seed: StrictInt = Field(ge=0, lt=2**63)
    max_staleness: RoundNumber = 0
    local: LocalTraining = LocalTraining()
    compression: Compression = Compression()
    """How every update of this run travels."""
    shared: SharedPatterns = ("*",)
    """Which tensors of the model travel; see selection.py. ``tensors`` are their specs."""
    num_shards: Annotated[StrictInt, Field(ge=0, le=MAX_SHARDS)] = 0
    """Not 0: workers send to the partial aggregator of their shard, see topology.py."""
    weighting: AlgorithmText = "samples"
    """What an update weighs, as ``--weighting`` has it. For partial aggregators."""
    figures: Annotated[tuple[FigureName, ...], Field(max_length=6)] = Field(
        default=(), exclude_if=lambda value: not value
    )
    """What every update from this model has to say of itself, for its weight."""
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The norm up to which an update counts in full; None: any."""
    name_conflicts: Annotated[tuple[WorkerName, ...], Field(max_length=1000)] = ()
    """Names that two workers have; each of the two should warn its operator."""
    presence_every_s: Annotated[float, Field(ge=MIN_PRESENCE_EVERY_S, le=MAX_PRESENCE_EVERY_S)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """With so many workers there, how much time each is to let pass between its signs of life; None: as it likes."""
    inline_cap: Annotated[StrictInt, Field(ge=0, le=MAX_PART_BYTES)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Bytes up to which an update from this model travels in its message, and not as a blob; None: not given."""
    protection: Annotated[tuple[Protection, ...], Field(max_length=2)] = Field(
        default=(), exclude_if=lambda value: not value
    )
    """What every update from this model has to be."""
    excluded: Annotated[tuple[WorkerPattern, ...], Field(max_length=MAX_EXCLUDED)] = Field(
        default=(), exclude_if=lambda value: not value
    )
    """Names, or patterns of names, of workers whose updates do not count any more. For partial aggregators."""
    began_at: Seconds | None = Field(default=None, exclude_if=lambda value: value is None)
    """When the run began, Unix time at the aggregator: an earlier run's head is a replay. None: not known."""
    replies: Annotated[tuple[Outcome, ...], Field(max_length=2)] = Field(default=(), exclude_if=lambda value: not value)
    """The outcomes of which a ``Reply`` is taken."""
    only_evaluate: StrictBool = Field(default=False, exclude_if=lambda value: not value)
    """The model is not trained any more: workers measure it, and answer that they did."""
    base_sha256: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    """The digest of the frozen parameters at the aggregator that do not travel; None: there are none."""
    correction: AlgorithmText | None = Field(default=None, exclude_if=lambda value: value is None)
    """What workers do against drift, as ``--correction`` has it; None: nothing, and the next two say nothing."""
    control_epoch: RoundNumber = Field(default=0, exclude_if=lambda value: not value)
    """Goes up whenever all that the correction keeps, at workers and aggregator, begins anew at zero."""
    counted: Counted = Field(default=b"", exclude_if=lambda value: not value)
    """Of each worker whose updates counted, the round of the last one; see counted.py."""
    purpose: Purpose = Field(default="train", exclude_if=lambda value: value == "train")
    """What workers are to do with the model."""
    operations: Operations = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Unless it is to be trained: the tensors that an update has, and how those of all updates become one."""
    statistics: Statistics = Field(default_factory=dict, exclude_if=lambda value: not value)
    """What tasks are told of all sites' samples, for scaling alike."""
    draw: Draw | None = Field(default=None, exclude_if=lambda value: value is None)
    """Who takes part in this round; None: everybody."""
    masking: Masking | None = Field(default=None, exclude_if=lambda value: value is None)
    """How every update from this model is masked; None: updates are not."""
    privacy: DifferentialPrivacy | None = Field(default=None, exclude_if=lambda value: value is None)
    """What noise this run's models have; None: none."""
    downlink: Downlink = Field(default="none", exclude_if=lambda value: value == "none")
    """How the payload travels, see downlink.py; ``tensors`` and the digests describe what is read from it."""

    def chooses(self, worker: str) -> bool:
        """Whether this worker takes part in the round."""
        return self.draw is None or self.draw.chooses(worker, seed=self.seed, round_number=self.round)

    @property
    def checked_by(self) -> BodyDigest:
        """By which a worker checks the model that it trains from.

        Where updates are masked that is the digest that their seeds name the model by: otherwise an aggregator could
        send a model of its own, with another ``blake3`` and the same name, to each worker, and keepers, which give the
        sum of updates from one model alone, would not see it. If all models but one leave nothing to learn, the sum is
        one worker's update (Pasquini, Francati & Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via
        Model Inconsistency").
        """
        return self.digest if self.masking is None else BodyDigest("sha256", self.sha256)

    @property
    def model_tensors(self) -> Specs:
        """The specs of the model: ``tensors`` without those of other sets."""
        return split_specs(self.tensors, self.sets)[MODEL] if self.sets else self.tensors

    def last_counted(self, worker: str) -> int | None:
        """The round of this worker's last update that counted; None if none did."""
        return last_counted(self.counted, worker)

    def cap(self, own: int) -> int:
        """``inline_cap``; if it is not given, as in 0.1.0, the worker's ``own`` setting."""
        return own if self.inline_cap is None else self.inline_cap

    @property
    def tells_of_sites(self) -> bool:
        """Whether updates from it say what their sites trained on, and how long; if not, they say 1 sample and 0 s."""
        return self.masking is None and self.privacy is None

    @property
    def position(self) -> tuple[int, int, bool, int]:
        """Where in its run this head stands; a greater one is newer.

        The epoch comes first: an aggregator that took over may go back a round, and a zombie's head is never newer.
        The draw comes last: where nobody could take part, others are chosen for the same round.
        """
        return (self.epoch, self.round, self.is_finished, 0 if self.draw is None else self.draw.number)

    @property
    def update_specs(self) -> KeptSpecs:
        """The specs of an update from this model, before compression."""
        return update_specs(self.model_tensors, self.operations)

    @model_validator(mode="after")
    def _what_is_not_trained_says_what_is_sent(self) -> Self:
        if (self.purpose == "train") != (not self.operations):
            raise ValueError("a model that is not to be trained names the tensors of its updates, and no other does")
        missing = self.operations.keys() - kept(self.tensors).names
        if missing:
            raise ValueError(f"it asks for {sorted(missing)[0]!r}, which is no tensor of the model")
        return self


class UpdateHead(Tensors):
    """What a worker learned: the delta (trained minus received) of each tensor that is averaged.

    ``tensors`` and the digest describe the delta as the run's compression encodes it, before zstd.
    """

    kind: Literal["update"] = "update"
    run_id: RunId
    worker: WorkerName
    instance: Instance
    """Random for each worker process: two instances of one name at the same time are two workers."""
    round: RoundNumber
    """The round whose model it was trained from."""
    model_sha256: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    """The digest of that model; None in version 1."""
    base_sha256: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    """The digest of the frozen parameters that it was trained with and that do not travel; None: there are none."""
    sealed: SealedKey | None = Field(default=None, exclude_if=lambda value: value is None)
    """The key of the body, which is then sealed; None: the body is in clear."""
    compression: Compression = Compression()
    num_samples: Annotated[StrictInt, Field(ge=1, le=MAX_NUM_SAMPLES)]
    train_s: Seconds
    sent_at: Seconds
    """Unix time at the worker, in seconds."""
    train_metrics: Metrics = Field(default_factory=dict)
    eval_metrics: Metrics = Field(default_factory=dict)
    """Of the received model, on the site's own held-out data."""
    train_not_finite: NotFinite = Field(default_factory=dict, exclude_if=lambda value: not value)
    eval_not_finite: NotFinite = Field(default_factory=dict, exclude_if=lambda value: not value)
    figures: Figures = Field(default_factory=dict, exclude_if=lambda value: not value)
    is_fresh: StrictBool = Field(default=False, exclude_if=lambda value: not value)
    """Its worker lost what it carried out of its last update that counted, and began with nothing."""
    seeds: Seeds = Field(default=(), exclude_if=lambda value: not value)
    """Of an update that is masked: for each keeper, a message with the sealed seed of its mask."""
    salt: Salt | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of one that is masked: what its seeds name its body by, together with its digest; see ``name_of_masked``."""

    @property
    def key(self) -> tuple[int, str]:
        """Within a run, an update with this key counts once."""
        return (self.round, self.worker)


class Reply(Header):
    """An answer without tensors: its worker has no update from this model. ``kind`` is the first of its fields."""

    kind: Literal["reply"] = "reply"
    run_id: RunId
    worker: WorkerName
    instance: Instance
    round: RoundNumber
    """The round whose model it is about."""
    model_sha256: Sha256
    """The digest of that model."""
    outcome: Outcome
    reason: Objection | None = Field(default=None, exclude_if=lambda value: value is None)
    """Why there is no update, in words; only where it diverged."""
    train_s: Seconds = 0.0
    sent_at: Seconds
    """Unix time at the worker, in seconds."""
    eval_metrics: Metrics = Field(default_factory=dict)
    """Of the received model, on the site's own held-out data."""
    eval_not_finite: NotFinite = Field(default_factory=dict, exclude_if=lambda value: not value)

    @property
    def key(self) -> tuple[int, str]:
        """Within a run, an answer with this key counts once, and not beside an update with the same."""
        return (self.round, self.worker)

    @model_validator(mode="after")
    def _what_diverged_says_why(self) -> Self:
        if (self.outcome == "diverged") != (self.reason is not None):
            raise ValueError("an answer that diverged has a reason, and no other has one")
        return self


class Folded(Header):
    """One update in a partial sum, for the root's ledger. The fields are those of its UpdateHead."""

    worker: WorkerName
    instance: Instance
    num_samples: Annotated[StrictInt, Field(ge=1, le=MAX_NUM_SAMPLES)]
    num_bytes: Annotated[StrictInt, Field(ge=0, lt=2**50)]
    base_sha256: Sha256 | None = Field(default=None, exclude_if=lambda value: value is None)
    train_s: Seconds
    sent_at: Seconds
    train_metrics: Metrics = Field(default_factory=dict)
    eval_metrics: Metrics = Field(default_factory=dict)
    train_not_finite: NotFinite = Field(default_factory=dict, exclude_if=lambda value: not value)
    eval_not_finite: NotFinite = Field(default_factory=dict, exclude_if=lambda value: not value)
    figures: Figures = Field(default_factory=dict, exclude_if=lambda value: not value)
    is_fresh: StrictBool = Field(default=False, exclude_if=lambda value: not value)
    """Its worker lost what it carried out of its last update that counted, and began with nothing."""
    seeds: Seeds = Field(default=(), exclude_if=lambda value: not value)


def _of_different_workers(updates: tuple[Folded, ...]) -> tuple[Folded, ...]:
    if len({update.worker for update in updates}) != len(updates):
        raise ValueError("a worker is in it twice")
    return updates


class PartialHead(Tensors):
    """The exact sum of updates of one shard for one round. It counts as a whole, or not at all.

    ``tensors`` are those of the updates. The payload is the sum's two limbs, as limbs.py lays them out; of masked
    updates, the sums of their integers, laid out like an update. The digest is over ``tensors`` and this payload.
    """

    kind: Literal["partial"] = "partial"
    run_id: RunId
    round: RoundNumber
    """The round whose model all its updates were trained from."""
    shard: Annotated[StrictInt, Field(ge=0, lt=MAX_SHARDS)]
    num_shards: Annotated[StrictInt, Field(ge=1, le=MAX_SHARDS)]
    sequence: Annotated[StrictInt, Field(ge=0, lt=2**40)]
    """How many partial sums of this shard for this round came before."""
    bound: Annotated[float, Field(ge=0)]
    """The sum of |weight * delta| is at most this, for every parameter."""
    sealed: SealedKey | None = Field(default=None, exclude_if=lambda value: value is None)
    """As in an update."""
    updates: Annotated[
        tuple[Folded, ...], Field(min_length=1, max_length=MAX_FOLDED), AfterValidator(_of_different_workers)
    ]

    @property
    def are_masked(self) -> bool:
        """Whether its updates are: then each has its seeds here."""
        return bool(self.updates[0].seeds)

    @property
    def num_bytes(self) -> int:
        return num_bytes_of(self.tensors) if self.are_masked else limb_bytes_of(self.tensors)

    @model_validator(mode="after")
    def _all_are_masked_or_none(self) -> Self:
        if any(bool(update.seeds) != self.are_masked for update in self.updates):
            raise ValueError("some of its updates are masked, and some are not")
        return self

    @model_validator(mode="after")
    def _all_are_of_its_shard(self) -> Self:
        for update in self.updates:
            if shard_of(update.worker, self.num_shards) != self.shard:
                raise ValueError(f"{update.worker} does not belong to shard {self.shard} of {self.num_shards}")
        return self


class Presence(Header):
    """A sign of life; nothing depends on any single one."""

    kind: Literal["presence"] = "presence"
    worker: WorkerName
    instance: Instance
    state: Literal["idle", "training", "sending", "leaving"]
    round: RoundNumber = 0
    progress: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the local training that is done."""
    every_s: Annotated[float, Field(ge=MIN_PRESENCE_EVERY_S, le=MAX_PRESENCE_EVERY_S)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """The next one comes within this many seconds; None: within PRESENCE_EVERY_S."""
    objection: Objection | None = Field(default=None, exclude_if=lambda value: value is None)
    """Why this worker does not answer the newest model, by its own policy; None: it does."""

    @property
    def gone_after_s(self) -> float:
        """Seconds without another sign of life after which this worker counts as gone: never less than 35."""
        return _INTERVALS_TO_BE_GONE * max(PRESENCE_EVERY_S, self.every_s or 0.0)

    @model_validator(mode="after")
    def _progress_belongs_to_training(self) -> Self:
        if self.progress and self.state != "training":
            raise ValueError("only a worker that is training has progress")
        return self


class Command(Header):
    """What somebody asks of a running aggregator. It is done once, however often it is delivered."""

    kind: Literal["command"] = "command"
    id: CommandId
    """Random; a second message with the same id is the same command."""
    run_id: RunId
    """The run that is meant: in any other it does nothing."""
    verb: Annotated[StrictStr, Field(pattern=r"^[a-z]{1,32}$")]
    words: Annotated[
        tuple[Annotated[StrictStr, Field(min_length=1, max_length=MAX_WORD)], ...], Field(max_length=MAX_COMMAND_WORDS)
    ] = ()
    sent_at: Seconds

    @property
    def text(self) -> str:
        """As it was typed."""
        return " ".join((self.verb, *self.words))


class Answer(Header):
    """What came of a command."""

    id: CommandId
    is_accepted: StrictBool
    text: Annotated[StrictStr, Field(max_length=MAX_ANSWER)]
    """What happens because of it, or why nothing does."""


class WorkerStatus(Header):
    """A worker, as of its last sign of life."""

    name: WorkerName
    state: Literal["idle", "training", "sending"]
    round: RoundNumber
    progress: Annotated[float, Field(ge=0, le=1)]
    seen_at: Seconds
    """Unix time at the aggregator."""
    has_answered: StrictBool
    """Whether its update for the open round is in."""
    objection: Objection | None = Field(default=None, exclude_if=lambda value: value is None)
    """As in its sign of life."""
    no_update: Objection | None = Field(default=None, exclude_if=lambda value: value is None)
    """Why it has no update for the open round, as it answered; None: it has not said so."""
    num_outvoted: RoundNumber = Field(default=0, exclude_if=lambda value: value == 0)
    """How many of its updates a robust rule has left out in this run."""


class Status(Header):
    """What the aggregator reports of its run, about once a second; for people to read, and nothing depends on it."""

    kind: Literal["status"] = "status"
    run: RunName
    run_id: RunId
    state: Literal["running", "finished", "stopped"]
    sent_at: Seconds
    round: RoundNumber
    """The open round; of a finished run, the last one."""
    num_rounds: RoundNumber
    num_folded: RoundNumber
    target: RoundNumber
    """How many updates close the round while ``num_present`` workers are present."""
    num_present: RoundNumber
    num_chosen: RoundNumber | None = Field(default=None, exclude_if=lambda value: value is None)
    """How many of those present take part in the open round; None: all."""
    deadline_at: Seconds | None = None
    """Unix time at which the round closes without its quorum; None: never."""
    num_shards: Annotated[StrictInt, Field(ge=0, le=MAX_SHARDS)] = 0
    workers: Annotated[tuple[WorkerStatus, ...], Field(max_length=MAX_LISTED)] = ()
    num_more_workers: RoundNumber = 0
    """How many present workers are not in ``workers``."""
    is_paused: StrictBool = Field(default=False, exclude_if=lambda value: not value)
    """Whether the open round stays open until the run is resumed."""
    answers: Annotated[tuple[Answer, ...], Field(max_length=MAX_ANSWERS)] = Field(
        default=(), exclude_if=lambda value: not value
    )
    """To the last commands, the newest last."""
