"""A second implementation of a seam, for tests: an accumulator that keeps the updates, as short as can be."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.config import AggregatorConfig
from aggregator.rounds.accumulator import Floats, Key
from aggregator.state.checkpoint import StateDirectory
from aggregator.state.rows import Accumulated
from broker.wire.buffers import Buffer
from broker.wire.specs import Specs, TensorSpec
from console.errors import DamagedFile, UnfitMessage


class Spool:
    """Keeps each update in a file; the mean is summed up in the order of their keys. In memory is one block of one."""

    def __init__(self, specs: Specs) -> None:
        self._specs = {spec.name: (offset, spec) for spec, offset in _offsets(specs)}
        self._updates: dict[Key, _Kept] = {}
        self._open: tuple[Key, _Kept] | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="spool-"))
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._saved: frozenset[str] = frozenset()

    @property
    def takes_sums(self) -> bool:
        return False

    @property
    def bound(self) -> float:
        return 0.0

    def begin_update(self, key: Key) -> None:
        path = self._scratch / f"{key.base_round}-{key.worker}"
        path.unlink(missing_ok=True)
        path.touch()
        self._open = (key, _Kept(path, 0.0))

    def add(self, offset: int, piece: Buffer, weight: float, *, most: float = math.inf) -> None:
        assert self._open is not None
        for name, (begin, spec) in self._specs.items():
            low, high = max(begin, offset), min(begin + spec.num_bytes, offset + len(piece))
            values = np.frombuffer(memoryview(piece)[low - offset : max(low, high) - offset], spec.dtype)
            if spec.is_float and not np.isfinite(values).all():
                raise UnfitMessage(f"tensor '{name}' holds NaN or infinity")
        key, kept = self._open
        with kept.path.open("ab") as file:
            file.write(piece)
        self._open = (key, replace(kept, weight=weight))

    def add_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        raise UnfitMessage("a sum cannot be taken apart into its updates")

    def end_update(self) -> None:
        assert self._open is not None
        (key, kept), self._open = self._open, None
        self._updates[key] = kept

    def remove(self, offset: int, piece: Buffer, weight: float) -> None:
        """Nothing yet: the update goes as a whole."""

    def remove_limbs(self, offset: int, piece: Buffer, *, bound: float) -> None:
        raise UnfitMessage("there are no sums here")

    def end_removal(self, key: Key) -> None:
        kept = self._updates.pop(key)
        if kept.path.parent == self._scratch:  # others are in the last commit
            kept.path.unlink()

    def save(self, directory: StateDirectory, name: str) -> str:
        base = "-".join(name.split("-")[:3])
        for key, kept in self._updates.items():
            path = directory.folder / f"{base}-of-{key.base_round}-{key.worker}.update"
            if kept.path != path:
                _put(path, kept.path.read_bytes())
                self._updates[key] = replace(kept, path=path)
        manifest = [
            [key.base_round, key.worker, kept.weight, kept.path.name, _digest(kept.path.read_bytes())]
            for key, kept in sorted(self._updates.items(), key=lambda item: (item[0].base_round, item[0].worker))
        ]
        text = json.dumps(manifest).encode()
        _put(directory.folder / name, text)
        self._saved = frozenset(kept.path.name for kept in self._updates.values())
        return _digest(text)

    def load(self, directory: StateDirectory, saved: Accumulated) -> None:
        path = directory.folder / saved.file
        try:
            text = path.read_bytes()
            if _digest(text) != saved.sha256:
                raise DamagedFile(f"{path} is damaged: its digest is not the one in the ledger")
            for base_round, worker, weight, name, sha256 in json.loads(text):
                if _digest((directory.folder / name).read_bytes()) != sha256:
                    raise DamagedFile(f"{name} is damaged: its digest is not the one in {path}")
                self._updates[Key(base_round, worker)] = _Kept(directory.folder / name, weight)
        except OSError as error:
            raise DamagedFile(f"{path} cannot be read: {error}") from error
        self._saved = frozenset(kept.path.name for kept in self._updates.values())

    def files(self) -> frozenset[str]:
        return self._saved

    def spans(self, specs: Specs) -> Iterator[Specs]:
        return ((spec,) for spec in specs)

    def means(
        self, span: Specs, divisor: float, *, start: int = 0, num: int | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        offset, spec = self._specs[span[0].name]
        num = spec.num_elements - start if num is None else num
        total_of_all = np.zeros(num)
        for key in sorted(self._updates, key=lambda key: (key.base_round, key.worker)):
            kept = self._updates[key]
            values = np.fromfile(kept.path, spec.dtype, num, offset=offset + start * spec.item_bytes)
            total_of_all += kept.weight * values.astype(np.float64)
        yield slice(0, num), total_of_all / divisor

    def forget(self, span: Specs) -> None:
        """Nothing of it is in memory."""

    def __contains__(self, name: str) -> bool:
        return name in self._specs


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    weight: float


def with_toys(config: AggregatorConfig, *names: str) -> AggregatorConfig:
    """The same run with ``spool`` in place of what is fedmq's own."""
    changes: Mapping[str, Any] = {"spool": {"new_accumulator": Spool}}
    for name in names:
        config = replace(config, **changes[name])
    return config


def _offsets(specs: Specs) -> Iterator[tuple[TensorSpec, int]]:
    offset = 0
    for spec in specs:
        yield spec, offset
        offset += spec.num_bytes


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _put(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
