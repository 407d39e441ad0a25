"""The privacy budget of a run that is killed, taken over and done again: no model without a charge, no sum twice.

What counts is what left: the heads that were published, and the sums that a keeper gave.
"""

import contextlib
import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix.faults import AFTER, AGGREGATOR, BEFORE, KILLED, Fault, Faults, Killed
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, state_of
from unit.masking.kept_run import KeptRun
from unit.masking.masked_run import SITES, MaskedRun

from aggregator.noising import CentralNoise
from broker.memory import MemoryTransport
from broker.states.tensors import State
from broker.wire import ModelHead, Release, Withheld, decode, is_of_kind
from keeper import Noise
from privacy import GaussianNoise

NOISE = 5.0
INITIAL = state_of(w=torch.zeros(8), b=torch.zeros(3))
DP: dict[str, Any] = {"dp_clip": "1.0", "dp_noise": NOISE, "dp_epsilon": 50.0, "dp_delta": 1e-5, "rounds": 100}
WANTED = 6
"""Rounds whose model is published before a run is looked at."""
POINTS = (
    "aggregator.state.ledger:Ledger.freeze",
    "aggregator.state.ledger:Ledger.close_round",
    "aggregator.state.ledger:Ledger.commit",
    "aggregator.state.checkpoint:NewModel.finish",
    "broker.memory:MemoryTransport.broadcast",
    "broker.memory:MemoryTransport.ack",
)
OF_KEEPER = (
    "keeper.ledger:Ledger.charge",
    "keeper.expanding:MaskSum.noised",
    "broker.memory:MemoryTransport.send_release",
    "broker.memory:MemoryTransport.ack",
)


@dataclass
class Watch:
    """Everything that left: models by their round, and the noise of each sum."""

    models: set[tuple[int, str]] = field(default_factory=set)
    drawn: dict[int, tuple[bytes, str, bytes]] = field(default_factory=dict)
    """Round -> whose secret it follows from, the sum, and the noise that was drawn last."""
    noises: defaultdict[tuple[bytes, int, str], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """(secret, round, sum or set) -> what is different between two noises, of those that were published."""

    @property
    def num_rounds(self) -> int:
        return len({number for number, _ in self.models})

    def published(self, body: bytes) -> None:
        head = decode(body, ModelHead)[0]
        assert head.privacy is not None
        if head.round > 1 and not head.is_finished:
            number = head.round - 1
            self.models.add((number, head.sha256))
            if number in self.drawn:
                secret, of_sum, noise = self.drawn[number]
                self.noises[secret, number, of_sum].add(noise)
        charged = round(head.privacy.spent * NOISE**2)
        assert charged >= sum(map(len, self.noises.values())), "a model has left that was not charged"

    def released(self, body: bytes) -> None:
        if is_of_kind(body, Withheld):
            return
        head, payload = decode(body, Release)
        self.noises[b"", head.round, head.set_sha256].add(hashlib.sha256(payload).digest())


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()

    def seen(name: str, look: Callable[[bytes], None]) -> None:
        function = getattr(MemoryTransport, name)

        def sees(self: MemoryTransport, body: bytes, **to: Any) -> None:
            look(bytes(body))
            function(self, body, **to)

        monkeypatch.setattr(MemoryTransport, name, sees)

    def draws(self: CentralNoise, round_number: int, sum_sha256: str, *, sigma: float) -> GaussianNoise:
        noise = of(self, round_number, sum_sha256, sigma=sigma)
        found.drawn[round_number] = self.secret, sum_sha256, noise.at(0, 8).tobytes()
        return noise

    of = CentralNoise.of
    monkeypatch.setattr(CentralNoise, "of", draws)
    seen("broadcast", found.published)
    seen("send_release", found.released)
    return found


@contextlib.contextmanager
def killed_at_random(chance: random.Random, role: str, points: tuple[str, ...]) -> Iterator[None]:
    """Kills who acts at one of the next calls of a point, if it comes to that."""
    point = chance.choice(points)
    faults = Faults(Fault(role, KILLED, chance.choice([BEFORE, AFTER]), point, chance.randint(1, 3)))

    def happens() -> None:
        raise Killed

    faults.happens = happens
    with faults.armed((point,)), faults.acting(role):
        yield


def damage(run: EmbeddedRun, chance: random.Random) -> None:
    """Changes a byte of the newest model that there is beside the first, and perhaps takes it off the broker, too."""
    folder = run.folder
    if chance.random() < 0.7:
        run.broker.heads.clear()
    models = sorted((folder / "models").glob("round-*.safetensors"))
    if len(models) > 1:
        content = bytearray(models[-1].read_bytes())
        content[-1] ^= 1
        models[-1].write_bytes(content)


def delta(chance: random.Random) -> State:
    """One of two, so that a round which is done again has the same sum or another."""
    return state_of(w=torch.full((8,), chance.choice([0.125, -0.125])), b=torch.zeros(3))


def next_of(run: Any, folder: Path, chance: random.Random, number: int) -> Any:
    """Whoever goes on after a kill: the same aggregator, perhaps with a damaged model; or one that has no state."""
    what = chance.random()
    if what < 0.25:
        return run.taken_over(folder / f"standby-{number}")
    if what < 0.6:
        run.aggregator.close()
        damage(run, chance)
    return run.crash()


@pytest.mark.parametrize("seed", range(20))
def test_no_model_of_the_aggregator_s_noise_leaves_without_a_charge_and_no_sum_has_two_noises(
    seed: int, watch: Watch, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    run = EmbeddedRun.make(tmp_path / "first", StateTask(INITIAL), min_updates=2, keep_every=1, **DP).start()
    for number in itertools.count():
        try:
            with killed_at_random(chance, AGGREGATOR, POINTS):
                run.fold_all([(name, delta(chance)) for name in ("a", "b")], train_s=0.0)
            is_killed = chance.random() < 0.3  # between two events
        except Killed:
            is_killed = True
        if is_killed:
            run = next_of(run, tmp_path, chance, number).start()
        if watch.num_rounds >= WANTED:
            break
        assert number < 100
    assert all(len(noises) == 1 for noises in watch.noises.values())
    assert len(watch.noises) >= WANTED - 1
    run.aggregator.close()


@pytest.mark.parametrize("seed", range(20))
def test_no_model_of_a_keeper_s_noise_leaves_without_a_charge_and_no_set_is_given_twice(
    seed: int, watch: Watch, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    kept = KeptRun.make(
        tmp_path, INITIAL, noise=Noise(NOISE, 50.0, 1e-5), privacy="secure", keep_every=1, weighting="uniform", **DP
    )
    for number in itertools.count():
        try:
            with killed_at_random(chance, AGGREGATOR, POINTS):
                for site in SITES[:3]:
                    kept.masked.send(site, delta(chance))
        except Killed:
            kept.masked = _next_masked(kept.masked, tmp_path, chance, number)
        try:
            with killed_at_random(chance, "keeper", OF_KEEPER):
                kept.serve()
        except Killed:
            kept.begin_keeper()
        try:
            with killed_at_random(chance, AGGREGATOR, POINTS):
                kept.settle()
        except Killed:
            kept.masked = _next_masked(kept.masked, tmp_path, chance, 1000 + number)
        if watch.num_rounds >= WANTED:
            break
        assert number < 100
    assert all(len(given) == 1 for given in watch.noises.values())
    by_round = [round_number for _, round_number, _ in watch.noises]
    assert len(by_round) == len(set(by_round)), "two sets of one round were given"
    charged = dict(kept.releases("round, set_sha256"))
    assert {each[1:] for each in watch.noises} <= set(charged.items())
    kept.close()


def _next_masked(masked: MaskedRun, folder: Path, chance: random.Random, number: int) -> MaskedRun:
    what = chance.random()
    if what < 0.2:
        return masked.taken_over(folder / f"standby-{number}")
    if what < 0.5:
        masked.run.aggregator.close()
        damage(masked.run, chance)
    return masked.crash()
