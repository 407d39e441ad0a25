"""What headers are made of: names, numbers and texts with their limits, and the model that all of them are."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBytes, StrictInt, StrictStr

from broker.wire.headers.counted import ENTRY_BYTES, MAX_COUNTED
from console import ARGUMENT_NAME, MAX_ARGUMENT, MAX_ARGUMENTS

MAX_NUM_SAMPLES = 2**29 - 1
"""num_samples times a float32 is exact in float64 up to here."""

MAX_TENSORS = 100_000
MAX_SHARDS = 1000
MAX_FOLDED = 1000
"""Updates in one partial sum."""
MAX_LISTED = 500
"""Workers in one status."""
MAX_PART_BYTES = 8 * 2**20
MAX_ZSTD_LEVEL = 19
MAX_COMMAND_WORDS, MAX_WORD = 64, 200
"""Words of a command, and characters of each."""
MAX_ANSWER = 1000
"""Characters of the answer to a command."""
MAX_ANSWERS = 20
"""Answers in one status."""
MAX_SEED_BYTES = 4096
"""Of a message with a sealed seed."""
MAX_OBJECTION = 300
"""Characters of a worker's objection."""
PRESENCE_EVERY_S = 10.0
"""Seconds between the signs of life of a worker that does not say otherwise."""
MIN_PRESENCE_EVERY_S, MAX_PRESENCE_EVERY_S = 0.1, 60.0
"""Whoever begins to lead has heard from every worker present within 60 s."""
Downlink = Literal["none", "bfloat16"]
"""How models travel to the workers."""
COMPRESSIONS = ("none", "float16", "bfloat16", "int8", "topk")
Protection = Literal["signed", "sealed"]
"""``signed``: whoever sends an update signs it; ``sealed``: only the aggregator can read its body."""

WorkerName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
WorkerPattern = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_*?\[\]!-]{1,128}$")]
"""A worker's name, or a pattern of names as the shell has them."""
MAX_EXCLUDED = 1000
AlgorithmText = Annotated[StrictStr, Field(pattern=r"^[a-z][a-z0-9_:=,.+-]{0,255}$")]
"""A name, or a name with parameters: ``qfedavg:q=1``."""
RunName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")]
RunId = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_.-]{1,96}$")]
Instance = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{8,32}$")]
SALT_BYTES = 32
Salt = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
"""32 random bytes, in hex."""
Sha256 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
Blake3 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
"""BLAKE3's 32 bytes, in hex."""
MAX_NUMBER = 2**40
"""Rounds and epochs are below it."""
RoundNumber = Annotated[StrictInt, Field(ge=0, lt=MAX_NUMBER)]
Seconds = Annotated[float, Field(ge=0, lt=1e12)]
Objection = Annotated[StrictStr, Field(min_length=1, max_length=MAX_OBJECTION)]
CommandId = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{32}$")]
SealedKey = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{160}$")]
"""A body's key, sealed to whoever may open it: an HPKE encapsulation (32 bytes) and ciphertext (48), in hex."""
MAX_METRIC_NAME = 64
METRIC_NAME = rf"^[A-Za-z0-9_.@/-]{{1,{MAX_METRIC_NAME}}}$"
MetricName = Annotated[StrictStr, Field(pattern=METRIC_NAME)]
MAX_METRICS = 64
Metrics = Annotated[dict[MetricName, float], Field(max_length=MAX_METRICS)]
NotFinite = Annotated[dict[MetricName, Literal["nan", "inf", "-inf"]], Field(max_length=MAX_METRICS)]
"""Metrics that are no finite numbers, which a header does not hold, by what they are."""
FigureName = Literal["num_steps", "update_norm1", "loss_before", "norm", "aggregation_weight", "within"]
"""What an update may say of itself beside its samples, for the weight that it has in the mean: its local optimizer
steps; the sum of the factors of its gradients (Wang et al. 2020, ||a_i||_1); the loss of the received model on what it
was trained on; the Euclidean norm of its delta over the trained parameters, as it is folded; its task's own weight; and
1 if its delta was no longer than the clip before it was clipped, otherwise 0."""
Figures = Annotated[dict[FigureName, Annotated[float, Field(ge=0)]], Field(max_length=6)]
Outcome = Literal["diverged", "measured"]
"""``diverged``: training ended in NaN or infinity; ``measured``: the model was only to be evaluated."""

Purpose = Literal["train", "sums", "statistics"]
"""``sums``: workers send what their task's ``sums()`` gives of the model; ``statistics``: those of their samples."""
Statistics = Annotated[
    dict[MetricName, Annotated[tuple[float, ...], Field(max_length=100_000)]], Field(max_length=MAX_METRICS)
]
"""Of all sites' samples, with a number for each feature: ``mean``, ``std`` and others."""


def _whole_entries(counted: bytes) -> bytes:
    if len(counted) % ENTRY_BYTES:
        raise ValueError(f"the counted rounds are entries of {ENTRY_BYTES} bytes, not {len(counted)} bytes")
    return counted


Counted = Annotated[StrictBytes, Field(max_length=ENTRY_BYTES * MAX_COUNTED), AfterValidator(_whole_entries)]

SharedPattern = Annotated[StrictStr, Field(min_length=1, max_length=512, pattern=r"^!?[^!,]")]
SharedPatterns = Annotated[tuple[SharedPattern, ...], Field(min_length=1, max_length=64)]


ArgumentName = Annotated[StrictStr, Field(pattern=ARGUMENT_NAME)]
PlanArguments = Annotated[
    dict[ArgumentName, Annotated[StrictStr, Field(max_length=MAX_ARGUMENT)]], Field(max_length=MAX_ARGUMENTS)
]


class Header(BaseModel):
    """What all headers have in common: they are immutable, refuse unknown keys, and hold no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    may_be_deflated: ClassVar[bool] = False
    """Whether a message with a deflated header of this kind is read."""
