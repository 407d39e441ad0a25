"""All that a run can be told of its algorithm: a row of the matrix each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A name, and settings of the run."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    num_workers: int = 5

    def __str__(self) -> str:
        return self.name


def _of(setting: str, *values: str) -> list[Algorithm]:
    return [Algorithm(value, {setting: value}) for value in values]


def _robust(rule: str, num_workers: int = 5, **others: Any) -> Algorithm:
    name = " + ".join([rule, *map(str, others.values())])
    return Algorithm(name, {"robust": rule} | others, num_workers)


ALGORITHMS = (
    Algorithm("fedavg"),
    Algorithm("fedavg, server-lr 2", {"server_lr": 2.0}),
    *_of(
        "server_optimizer",
        "fedavgm",
        "diloco",
        "fedadam",
        "fedadam:bias_correction=true",
        "fedadam:v0=0",
        "fedyogi",
        "fedyogi:bias_correction=true",
        "fedyogi:v0=0",
        "fedadagrad",
        "fedams",
        "fedams:bias_correction=true",
        "fedexp",
    ),
    *_of("weighting", "uniform", "fednova", "qfedavg:q=1", "task"),
    Algorithm("clip-norm 0.05", {"clip_norm": 0.05}),
    Algorithm("max-samples 12", {"max_samples": 12}),
    Algorithm("max-weight 1", {"max_weight": 1.0}),
    Algorithm("fedadam + fednova + clip", {"server_optimizer": "fedadam", "weighting": "fednova", "clip_norm": 0.05}),
    Algorithm("fedavgm + qfedavg", {"server_optimizer": "fedavgm", "weighting": "qfedavg:q=0.5"}),
    Algorithm("fedexp + task", {"server_optimizer": "fedexp", "weighting": "task"}),
    Algorithm("sample 0.6", {"sample": "0.6"}),
    Algorithm("sample 2 + fedavgm", {"sample": "2", "server_optimizer": "fedavgm"}),
    Algorithm(
        "schedules",
        {
            "lr_schedule": "cosine:0.1:0.01:3",
            "server_lr_schedule": "step:0.5@2",
            "sample_schedule": "linear:0.5:1:3",
        },
    ),
    *_of("correction", "scaffold", "feddyn:alpha=0.1", "ditto:lam=0.1"),
    Algorithm("scaffold + sample 3", {"correction": "scaffold", "sample": "3"}),
    Algorithm("feddyn + sample 3", {"correction": "feddyn:alpha=0.1", "sample": "3"}),
    Algorithm("ditto + fedavgm", {"correction": "ditto:lam=0.1", "server_optimizer": "fedavgm"}),
    Algorithm("bfloat16 down", {"downlink": "bfloat16"}),
    Algorithm("bfloat16 down + fedadam", {"downlink": "bfloat16", "server_optimizer": "fedadam"}),
    Algorithm("bfloat16 down + scaffold", {"downlink": "bfloat16", "correction": "scaffold"}),
    Algorithm("bfloat16 down + sample 3", {"downlink": "bfloat16", "sample": "3"}),
    _robust("median"),
    _robust("trimmed:0.2"),
    _robust("krum:f=1,m=3"),
    _robust("bulyan:f=1", 7),
    _robust("geometric-median"),
    _robust("median", server_optimizer="fedadam"),
    _robust("krum:f=0,m=2", sample="3"),
)
