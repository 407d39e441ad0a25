"""What a worker carries from round to round of a run, kept in memory or, with ``--state``, on disk.

Training for round r begins from what was carried out of the last round before r for which an update was sent. So
training that is repeated (because the worker or the aggregator was killed) begins where it did before, and gives the
same bits. What the worker began with counts as carried out of round 0.

DIR/<worker>/run-<run id>/round-00012.safetensors    <set>.<tensor>, after the update of round 12
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from broker.states import State, digest_of
from console import StateError
from console.durable import replace_file

RESIDUAL, HOME = "residual", "home"


@dataclass(frozen=True, slots=True)
class Carried:
    """What stays at the site: named sets of tensors, such as RESIDUAL, HOME and MEMORY."""

    sets: Mapping[str, State] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return any(self.sets.values())

    def with_sets(self, sets: Mapping[str, State]) -> "Carried":
        """The same with these sets, too."""
        return Carried({**self.sets, **sets})

    @property
    def residual(self) -> State:
        """What compression left out so far; see error_feedback.py."""
        return self.sets.get(RESIDUAL, {})

    @property
    def home(self) -> State:
        """The tensors of the model that are not shared."""
        return self.sets.get(HOME, {})


class Store(Protocol):
    """Where what is carried is kept."""

    @property
    def is_lasting(self) -> bool:
        """Whether it survives a restart."""

    def before(self, run_id: str, round_number: int) -> Carried | None:
        """What training for this round begins from; None if nothing is kept for the run."""

    def after(self, run_id: str, round_number: int) -> Carried | None:
        """What was carried out of this very round; None if that is not kept."""

    def keep(
        self, run_id: str, round_number: int, *, before: Carried, after: Carried, counted: int | None = None
    ) -> None:
        """Keeps what is carried out of a round, and forgets later rounds and those long past.

        With ``counted``, the round of the last update that is known to count (0: none), that one is kept for good, and
        the one that was it before: an aggregator may go back a round.
        """

    def forget(self, run_id: str, round_number: int) -> None:
        """Forgets this round, as if no update had been made for it."""


class InMemory:
    """For as long as the process lives: the last round and the one before, of one run."""

    is_lasting = False

    def __init__(self) -> None:
        self._run_id = ""
        self._rounds: dict[int, Carried] = {}

    def before(self, run_id: str, round_number: int) -> Carried | None:
        if run_id != self._run_id:
            return None
        number = _base(self._rounds, round_number)
        return None if number is None else self._rounds[number]

    def after(self, run_id: str, round_number: int) -> Carried | None:
        return self._rounds.get(round_number) if run_id == self._run_id else None

    def keep(
        self, run_id: str, round_number: int, *, before: Carried, after: Carried, counted: int | None = None
    ) -> None:
        if run_id != self._run_id:
            self._run_id, self._rounds = run_id, {}
        if not self._rounds:
            self._rounds[0] = before
        self._rounds[round_number] = after
        for number in _outdated(self._rounds, round_number, num_kept=2, counted=counted):
            del self._rounds[number]

    def forget(self, run_id: str, round_number: int) -> None:
        if run_id == self._run_id:
            self._rounds.pop(round_number, None)


class OnDisk:
    """Durable: the last three rounds of each run. A file is written under another name, synced, then renamed."""

    is_lasting = True

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder / worker

    def check(self) -> None:
        """Raises StateError if nothing can be kept there."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot write to the state directory {self._folder}: {error.strerror}") from error

    def before(self, run_id: str, round_number: int) -> Carried | None:
        number = _base(self._rounds(run_id), round_number)
        return None if number is None else _read(self._path(run_id, number))

    def after(self, run_id: str, round_number: int) -> Carried | None:
        path = self._path(run_id, round_number)
        return _read(path) if path.exists() else None

    def keep(
        self, run_id: str, round_number: int, *, before: Carried, after: Carried, counted: int | None = None
    ) -> None:
        if not self._rounds(run_id):
            _write(self._path(run_id, 0), before)
        _write(self._path(run_id, round_number), after)
        for number in _outdated(self._rounds(run_id), round_number, num_kept=3, counted=counted):
            self._path(run_id, number).unlink(missing_ok=True)

    def forget(self, run_id: str, round_number: int) -> None:
        self._path(run_id, round_number).unlink(missing_ok=True)

    def _rounds(self, run_id: str) -> list[int]:
        paths = self._run_folder(run_id).glob("round-*.safetensors")
        return [int(path.stem.removeprefix("round-")) for path in paths]

    def _path(self, run_id: str, round_number: int) -> Path:
        return self._run_folder(run_id) / f"round-{round_number:05d}.safetensors"

    def _run_folder(self, run_id: str) -> Path:
        return self._folder / f"run-{run_id}"


def _base(rounds: Collection[int], round_number: int) -> int | None:
    """The last round before; where an aggregator went back further than is kept, the earliest one kept."""
    return max((number for number in rounds if number < round_number), default=min(rounds, default=None))


def _outdated(rounds: Collection[int], round_number: int, *, num_kept: int, counted: int | None) -> list[int]:
    past = sorted(number for number in rounds if number <= round_number)
    if counted is None:
        needed = set(past[-num_kept:])
    else:
        counted_before = max((number for number in past if number < counted), default=counted)
        needed = {round_number, counted, counted_before}
    return [number for number in rounds if number not in needed]


def _write(path: Path, carried: Carried) -> None:
    state = {
        f"{of_set}.{name}": tensor.contiguous()
        for of_set, tensors in carried.sets.items()
        for name, tensor in tensors.items()
    }
    replace_file(path, lambda new: save_file(state, new, {"sha256": digest_of(state)}))


def _read(path: Path) -> Carried:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sha256 = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError, ValueError) as error:
        raise StateError(f"{path} cannot be read: {error}; {_ADVICE}") from error
    if digest_of(state) != sha256:
        raise StateError(f"{path} is damaged: its digest is not the one written with it; {_ADVICE}")
    sets: dict[str, dict[str, torch.Tensor]] = {}
    for full_name, tensor in state.items():
        of_set, _, name = full_name.partition(".")
        sets.setdefault(of_set, {})[name] = tensor
    return Carried(sets)


_ADVICE = "remove it to go on from an earlier round, or its directory to begin with nothing"
