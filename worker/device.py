"""Where to train: one device, or several GPUs together."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from console import TaskError

_WORDS = ("auto", "cpu", "mps", "cuda")


@dataclass(frozen=True, slots=True)
class Devices:
    """What ``--device`` asks for."""

    kind: str
    """``auto``, ``cpu``, ``mps`` or ``cuda``."""
    indexes: tuple[int, ...] = ()
    """The numbers of the GPUs; none: the first one."""

    @classmethod
    def parse(cls, text: str) -> "Devices":
        """From ``auto``, ``cpu``, ``mps``, ``cuda``, ``cuda:1`` or ``cuda:0,1``. Anything else is a ValueError."""
        if text in _WORDS:
            return cls(text)
        if not re.fullmatch(r"cuda:[0-9]{1,3}(,[0-9]{1,3})*", text):
            raise ValueError(f"expected {', '.join(_WORDS)}, cuda:1 or cuda:0,1, not {text!r}")
        indexes = tuple(int(index) for index in text.removeprefix("cuda:").split(","))
        twice = next((index for index in indexes if indexes.count(index) > 1), None)
        if twice is not None:
            raise ValueError(f"it names GPU {twice} twice")
        return cls("cuda", indexes)

    def __str__(self) -> str:
        return self.kind + (":" + ",".join(map(str, self.indexes)) if self.indexes else "")

    def found(self) -> tuple[str, ...]:
        """The devices here, as PyTorch names them; the first one has the model. TaskError if one is not there."""
        if self.kind == "auto":
            return (_best(),)
        if self.kind == "cuda" and (missing := self._missing()):
            raise TaskError(f"--device {self}: there is no {missing} here; {_what_there_is()}")
        if self.kind == "mps" and not torch.backends.mps.is_available():
            raise TaskError(f"--device mps: there is no mps here; {_what_there_is()}")
        return tuple(f"cuda:{index}" for index in self.indexes) or (self.kind,)

    def _missing(self) -> str | None:
        num_gpus = torch.cuda.device_count()
        missing = (f"cuda:{index}" for index in self.indexes or (0,) if index >= num_gpus)
        return next(missing, None)


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _what_there_is() -> str:
    there = f"PyTorch sees {', '.join([*_seen(), 'cpu'])}"
    if torch.cuda.device_count():
        return there
    if torch.version.cuda is None and torch.version.hip is None:
        return f"{there}, and is a build without CUDA, which sees no GPU"
    return f"{there}; see nvidia-smi, and CUDA_VISIBLE_DEVICES"


def _seen() -> Iterator[str]:
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index} ({torch.cuda.get_device_name(index)})"
    if torch.backends.mps.is_available():
        yield "mps"
