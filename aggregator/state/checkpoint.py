"""The files of a state directory. A file is written under a temporary name, synced, renamed, and only then recorded.

ledger.sqlite                     the truth; see ledger.py
models/round-00012.safetensors    the model after round 12; round-00000 is the initial one
models/round-00012.NAME.safetensors   the server step's state after round 12, if it has any: the model's companion,
                                  one flat float64 tensor NAME, in the order of the model's elements
models/last.safetensors, best.safetensors   hard links to two of them, for people
bodies/                           of updates in that sum, as long as they may have to be taken out; see kept_bodies.py
sum-2-00013-4.safetensors         the open round's sum as of a commit; the numbers: epoch, round, updates folded
sum-2-00013-of-9f2c.update        an update of the open round, where each is kept by itself; see aggregator/spool
update-9f2c.tmp                   the same before a commit names it
summary.json                      for people and scripts; written at the end
"""

import hashlib
import json
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aggregator.state.safetensors_file import SafetensorsData, SafetensorsFile
from broker.states import State, chunks, flat_tensor, specs_of
from broker.wire import Buffer, Digest, Specs, TensorSpec, difference, kept, num_bytes_of, num_elements_of
from console import DamagedFile, StateError
from console.durable import sync_folder

UNFINISHED_UPDATE = "update-"
"""What the name of a file begins with that holds an update which no commit names."""


class StateDirectory:
    """One run's files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._models = folder, folder / "models"
        self._rounds: set[int] | None = None
        """The rounds whose models may be there; None before the first look."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._models.mkdir(exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot write to the state directory {folder}: {error.strerror}") from error

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    def model_path(self, round_number: int) -> Path:
        """The path of the model after this round."""
        return self._models / f"round-{round_number:05d}.safetensors"

    def companion_path(self, round_number: int, name: str) -> Path:
        """The path of the server step's state of this name after this round."""
        return self._models / f"round-{round_number:05d}.{name}.safetensors"

    # -- models ---------------------------------------------------------------------------------------------

    def new_model(self, round_number: int, specs: Specs, *, companions: Sequence[str] = ()) -> "NewModel":
        """The model after a round with its companions, to be written piece by piece."""
        return NewModel(
            _NewFile(self.model_path(round_number), specs, round_number=round_number),
            {
                name: _NewFile(
                    self.companion_path(round_number, name), companion_specs(name, specs), round_number=round_number
                )
                for name in companions
            },
        )

    def write_model(self, round_number: int, state: State) -> "WrittenModel":
        """Writes the model after a round durably, but not yet in place."""
        specs = specs_of(state)
        new = self.new_model(round_number, specs)
        for piece in chunks(state, specs):
            new.write(piece)
        return new.finish()

    def model(self, round_number: int) -> "ModelFile":
        """The file of the model after a round."""
        return ModelFile(self.model_path(round_number))

    def companion(self, round_number: int, name: str) -> "ModelFile":
        """The file of one of that model's companions."""
        return ModelFile(self.companion_path(round_number, name))

    def link(self, name: str, round_number: int) -> None:
        """Links ``models/<name>.safetensors`` to the model after a round."""
        path, temporary = self._models / f"{name}.safetensors", self._models / f".{name}.tmp"
        try:
            os.link(self.model_path(round_number), temporary)
        except FileExistsError:  # a killed aggregator left it
            temporary.unlink()
            os.link(self.model_path(round_number), temporary)
        temporary.replace(path)
        temporary.unlink(missing_ok=True)  # renaming onto a link to the same file does nothing

    def keep_only(self, rounds: set[int]) -> None:
        """Removes the models of other rounds, and their companions."""
        if self._rounds is None:
            self._rounds = {int(path.name[6:].partition(".")[0]) for path in self._models.glob("round-*.safetensors")}
        outdated = tuple(f"round-{number:05d}." for number in self._rounds - rounds)
        for name in os.listdir(self._models) if outdated else ():
            if name.startswith(outdated) and name.endswith("safetensors"):
                (self._models / name).unlink(missing_ok=True)
        self._rounds = set(rounds)

    def remove_unfinished(self) -> None:
        """Removes files that a killed aggregator had not put in place."""
        for path in (*self._models.glob("*.tmp"), *self.folder.glob(f"{UNFINISHED_UPDATE}*.tmp")):
            path.unlink(missing_ok=True)

    # -- the open round's sum -------------------------------------------------------------------------------

    def save_sum(self, name: str, limbs: Mapping[str, NDArray[Any]]) -> str:
        """Writes the sum's arrays durably under a new name; returns the digest of their values."""
        path = self.folder / name
        temporary = path.with_suffix(".tmp")
        _save(temporary, {key: torch.from_numpy(limb) for key, limb in limbs.items()})
        _put_in_place(temporary, path)
        return _sum_digest(limbs)

    def load_sum(self, name: str, sha256: str, limbs: Mapping[str, NDArray[Any]]) -> None:
        """Fills a new sum's arrays with what was saved."""
        path = self.folder / name
        with _opened(path) as file:
            for key, limb in limbs.items():
                limb[:] = file.get_tensor(key).numpy()
        if _sum_digest(limbs) != sha256:
            raise DamagedFile(f"{path} is damaged: its digest is not the one in the ledger")

    def read_sum(self, name: str, sha256: str) -> dict[str, NDArray[Any]]:
        """The arrays that were saved, whichever they are."""
        path = self.folder / name
        with _opened(path) as file:
            arrays = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118
        if _sum_digest(arrays) != sha256:
            raise DamagedFile(f"{path} is damaged: its digest is not the one in the ledger")
        return arrays

    def adopt(self, written: Path, name: str) -> Path:
        """Syncs a file of this folder and gives it a name, which is durable once another one is put in place."""
        path = self.folder / name
        try:
            with written.open("rb") as file:
                _sync(file)
            return written.replace(path)
        except OSError as error:
            raise not_written(path, error) from error

    def write_file(self, name: str, content: bytes) -> str:
        """Writes a small file durably under a new name; returns its digest."""
        path = self.folder / name
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                _sync(file)
        except OSError as error:
            raise not_written(path, error) from error
        _put_in_place(temporary, path)
        return hashlib.sha256(content).hexdigest()

    def read_file(self, name: str, sha256: str) -> bytes:
        """What ``write_file`` wrote; a DamagedFile if it is not that."""
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedFile(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DamagedFile(f"{path} is damaged: its digest is not the one in the ledger")
        return content

    def remove_sums(self, epoch: int, *, but: Collection[str] = ()) -> None:
        """Removes the sums that no commit needs, except those of a later epoch: they are another aggregator's."""
        for name in os.listdir(self.folder):
            if name.startswith("sum-") and name not in but and int(name.split("-")[1]) <= epoch:
                (self.folder / name).unlink(missing_ok=True)

    # -- the end --------------------------------------------------------------------------------------------

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self.write_json(self.summary, summary)

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Writes a file for people and scripts durably."""
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(value, file, indent=2)
                file.write("\n")
                _sync(file)
        except OSError as error:
            raise not_written(path, error) from error
        _put_in_place(temporary, path)


class _NewFile:
    """A file of tensors on its way to the disk; a StateError if there is no room for it."""

    def __init__(self, path: Path, specs: Specs, *, round_number: int) -> None:
        self.path = path
        # a name of its own: an aggregator that was frozen in mid-write may wake up and write on
        self.temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        with self._in_writing():
            self._written = SafetensorsFile(self.temporary, specs, round_number=round_number)

    def write(self, piece: Buffer) -> None:
        with self._in_writing():
            self._written.write(piece)

    def finish(self) -> str:
        """Makes it durable, but not yet in place; returns its digest."""
        with self._in_writing(), self._written.file as file:
            sha256 = self._written.finish()
            _sync(file)
        return sha256

    def discard(self) -> None:
        self._written.file.close()
        self.temporary.unlink(missing_ok=True)

    @contextmanager
    def _in_writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.temporary.unlink(missing_ok=True)
            raise not_written(self.path, error) from error


class NewModel:
    """A model with its companions on the way to the disk; a StateError if there is no room for them."""

    def __init__(self, model: _NewFile, companions: Mapping[str, _NewFile]) -> None:
        self._model, self._companions = model, companions

    def write(self, piece: Buffer, state: Mapping[str, NDArray[np.float64]] = MappingProxyType({})) -> None:
        """Takes the next piece of the payload, and the same elements of each companion."""
        self._model.write(piece)
        for name, file in self._companions.items():
            file.write(memoryview(np.ascontiguousarray(state[name])).cast("B"))  # type: ignore[arg-type]

    def finish(self) -> "WrittenModel":
        """Makes all files durable, but not yet in place."""
        companions = {name: file.finish() for name, file in self._companions.items()}
        sha256 = self._model.finish()
        files = [self._model, *self._companions.values()]
        return WrittenModel(sha256, companions, tuple((file.temporary, file.path) for file in files))

    def discard(self) -> None:
        """Deletes what was written: it will not become a model."""
        for file in (self._model, *self._companions.values()):
            file.discard()


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A model on the disk with its companions, not yet in place."""

    sha256: str
    companions: Mapping[str, str]
    """Name -> digest."""
    files: tuple[tuple[Path, Path], ...]
    """(temporary path, final path), the model first."""

    @property
    def model(self) -> "ModelFile":
        """The model's file under its temporary name."""
        return ModelFile(self.files[0][0])

    def companion(self, name: str) -> "ModelFile":
        """The file of a companion under its temporary name."""
        return ModelFile(self.files[1 + list(self.companions).index(name)][0])

    def install(self) -> None:
        """Puts all files in place durably; the model last, since whoever finds it looks for its companions."""
        for temporary, path in reversed(self.files):
            _put_in_place(temporary, path)


class Floats:
    """The values of a companion, in order, read on request."""

    def __init__(self, data: SafetensorsData) -> None:
        self._data = data

    def take(self, num: int) -> NDArray[np.float64]:
        """The next ``num`` values."""
        pieces = self._data.pieces(8 * num) if num else iter(())
        return np.frombuffer(b"".join(pieces), np.float64)


def companion_specs(name: str, specs: Specs) -> Specs:
    """The specs of a companion of a model with these specs."""
    return (TensorSpec(name, "float64", (num_elements_of(specs),)),)


class ModelFile:
    """A model on disk, read piece by piece; nothing stays in memory. A DamagedFile if it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def values(self, specs: Specs, spans: Iterable[Specs]) -> Iterator[tuple[Specs, int, torch.Tensor]]:
        """Each span, piece by piece: (span, first element, flat values); ``specs`` are those of the model.

        Each span has one dtype; together they are all of ``specs``, in order.
        """
        with self._data(specs) as data:
            for span in spans:
                start = 0
                for piece in data.pieces(num_bytes_of(span)):
                    values = flat_tensor(piece, span[0].dtype)
                    yield span, start, values
                    start += len(values)

    def pieces(self, specs: Specs) -> Iterator[Buffer]:
        """The payload, piece by piece."""
        with self._data(specs) as data:
            yield from data.pieces(num_bytes_of(specs))

    def halves(self, specs: Specs) -> dict[str, NDArray[np.float16]]:
        """The float16 tensors of a model with these specs, flat, by name; read from the file as they are looked at."""
        found: dict[str, NDArray[np.float16]] = {}
        if "float16" not in kept(specs).dtypes:
            return found
        start = 0
        with self._data(specs) as data:
            first = data.file.tell()
            for spec in specs:
                if spec.dtype == "float16" and spec.num_elements:
                    found[spec.name] = np.memmap(
                        self.path, np.float16, "r", offset=first + start, shape=(spec.num_elements,)
                    )
                start += spec.num_bytes
        return found

    @contextmanager
    def floats(self, specs: Specs) -> Iterator[Floats]:
        """The values of a companion of a model with these specs, to be read in order."""
        with self._data(companion_specs(self._name, specs)) as data:
            yield Floats(data)

    def mapped(self, specs: Specs) -> NDArray[np.float64]:
        """The values of a companion of a model with these specs, read from the file as they are looked at."""
        with self._data(companion_specs(self._name, specs)) as data:
            num, first = num_elements_of(specs), data.file.tell()
            return np.memmap(self.path, np.float64, "r", offset=first, shape=(num,)) if num else np.zeros(0)

    @property
    def _name(self) -> str:
        """The name of a companion, in its place or not yet."""
        return self.path.name.split(".")[1]

    @contextmanager
    def _data(self, specs: Specs) -> Iterator[SafetensorsData]:
        try:
            data = SafetensorsData(self.path, specs)
            with data.file:
                yield data
        except (OSError, ValueError) as error:
            raise DamagedFile(f"{self.path} cannot be read: {error}") from error

    def state(self) -> State:
        with _opened(self.path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def specs(self) -> Specs:
        return specs_of(self.state())

    def check(self, specs: Specs, sha256: str) -> None:
        """A DamagedFile unless it holds exactly what was written; a StateError if it is another task's model."""
        problem = difference(specs, self.specs())
        if problem:
            raise StateError(f"the model in {self.path} {problem}; is this the task that the run began with?")
        digest = Digest(specs)
        for piece in self.pieces(specs):
            digest.add(piece)
        if digest.hex() != sha256:
            raise DamagedFile(f"{self.path} is damaged: its digest is not the one in the ledger")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    try:
        save_file(dict(tensors), path)
        with path.open("rb") as file:
            _sync(file)
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        raise not_written(path, error) from error


def _put_in_place(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, why: object) -> StateError:
    """What is said of a file of the state that could not be written."""
    return StateError(f"cannot write {path}: {why}; make room, and the same command resumes from the last commit")


def _sum_digest(limbs: Mapping[str, NDArray[Any]]) -> str:
    sha = hashlib.sha256()
    for name in sorted(limbs):
        sha.update(name.encode())
        sha.update(limbs[name])  # type: ignore[arg-type]
    return sha.hexdigest()


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
