"""Who leaves the list or the roster in a running run: its update of the open round is out, as if it had never come."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import AT_ONCE_S, Clock, EmbeddedRun, StateTask, payload_of
from unit.aggregator.sharded_run import ShardedRun, names_of
from unit.aggregator.test_compressed_updates import encoded_update

from aggregator.bodies.body import InFile
from aggregator.rounds import ExactSum
from aggregator.senders.admission import Allowed
from aggregator.senders.exclusion import Excluding
from aggregator.senders.on_roster import admission_by
from aggregator.service import Aggregator
from aggregator.state import KeptBodies, Ledger, StateDirectory
from broker.memory import MemoryTransport
from broker.states.compression import Encoding
from broker.states.tensors import State, specs_of
from broker.wire.codec import encode
from broker.wire.messages import MAX_PART_BYTES, BlobRef, Tensors
from broker.wire.specs import Digest, delta_specs
from console.errors import DamagedFile
from identities import Certificate, InMemory, Membership, PrivateKeys, Roster, in_memory
from identities.trust import Verified

INITIAL: State = {"w": torch.linspace(-1, 1, 4000).reshape(40, 100), "b": torch.zeros(3)}
DEADLINE_S = 100.0
SAMPLES = {"a": 3, "b": 7, "c": 11, "d": 5}


def delta(worker: str, number: int = 1) -> State:
    random = torch.Generator().manual_seed(number * 1000 + ord(worker))
    return {name: torch.randn(tensor.shape, generator=random) for name, tensor in INITIAL.items()}


class List:
    """A list of workers in a file, each change of which is taken for a later one."""

    def __init__(self, path: Path, names: str = "abcd") -> None:
        self.path, self._at = path, 0
        self.write(names)

    def write(self, names: str) -> None:
        self._at += 1
        self.path.write_text("\n".join(names) + "\n", encoding="utf-8")
        os.utime(self.path, (self._at, self._at))


@pytest.fixture
def allowed(tmp_path: Path) -> List:
    return List(tmp_path / "sites.txt")


def listed(run: EmbeddedRun, allowed: List) -> EmbeddedRun:
    """The run, started, with its own time for looking at the list."""
    run.aggregator._course.admission = Excluding(Allowed(str(allowed.path), clock=run.clock))
    return run.start()


@dataclass
class Runs:
    """Makes runs whose list is a file, and whose first round ends at its deadline; closes them all at the end."""

    folder: Path
    allowed: List
    made: list[EmbeddedRun]

    def begin(self, name: str = "run", **changes: Any) -> EmbeddedRun:
        fields = {"quorum": "9", "min_updates": 1, "deadline_s": DEADLINE_S, "workers_allowed": str(self.allowed.path)}
        run = EmbeddedRun.make(self.folder / name, StateTask(INITIAL), **(fields | changes))
        self.made.append(run)
        return listed(run, self.allowed)

    def again(self, run: EmbeddedRun) -> EmbeddedRun:
        """The run after a kill."""
        self.made.append(run.crash())
        return listed(self.made[-1], self.allowed)

    def without_b(self, **changes: Any) -> str:
        """The digest of a run in which b never answers."""
        run = self.begin("undisturbed", **changes)
        for worker in "acd":
            answer(run, worker)
        return closed(run)


@pytest.fixture
def runs(tmp_path: Path, allowed: List) -> Iterator[Runs]:
    made: list[EmbeddedRun] = []
    yield Runs(tmp_path, allowed, made)
    for run in made:
        run.aggregator.close()


def answer(run: EmbeddedRun, worker: str, *, part_bytes: int | None = None, number: int = 1) -> None:
    encoding = Encoding(delta_specs(specs_of(INITIAL)), run.settings.update_compression)
    encoded = encoding.encode(delta(worker, number), seed=ord(worker))
    message = encoded_update(run, worker, encoded, encoding, part_bytes=part_bytes, num_samples=SAMPLES[worker])
    run.site.send(message, worker=worker)
    run.settle()


def leave(run: EmbeddedRun, allowed: List, names: str = "acd") -> None:
    allowed.write(names)
    for _ in range(2):
        run.pass_time(1.0)


def closed(run: EmbeddedRun) -> str:
    """The digest of the model after the first round, which its deadline closes."""
    run.pass_time(DEADLINE_S)
    ((sha256,),) = run.query("SELECT model_sha256 FROM rounds WHERE round = 1 AND closed_by IS NOT NULL")
    return str(sha256)


def rows(run: EmbeddedRun) -> list[tuple[Any, ...]]:
    return run.query("SELECT worker, verdict FROM updates ORDER BY id")


def kept(run: EmbeddedRun) -> list[Path]:
    return sorted((run.folder / "bodies").glob("*"))


@pytest.mark.parametrize("commit_every_s", [AT_ONCE_S, 1000.0], ids=["committed", "pending"])
@pytest.mark.parametrize("part_bytes", [None, 64], ids=["inline", "in a blob"])
@pytest.mark.parametrize(("compression", "zstd"), [("none", 0), ("none", 3), ("int8", 0), ("int8", 3), ("topk:0.1", 0)])
@pytest.mark.parametrize("restarts", [False, True], ids=["goes on", "restarted"])
def test_the_model_has_the_bits_of_a_run_in_which_it_never_answered(
    runs: Runs, commit_every_s: float, part_bytes: int | None, compression: str, zstd: int, restarts: bool
) -> None:
    settings: dict[str, Any] = {"compression": compression, "zstd": zstd, "part_bytes": 64}
    expected = runs.without_b(**settings)
    run = runs.begin(commit_every_s=commit_every_s, **settings)
    for worker in "ab":
        answer(run, worker, part_bytes=part_bytes)
    assert run.num_folded == 2
    if restarts:
        run = runs.again(run)
        run.settle()
    leave(run, runs.allowed)
    assert run.num_folded == 1
    for worker in "cd":
        answer(run, worker, part_bytes=part_bytes)
    assert closed(run) == expected
    assert run.query("SELECT num_folded, num_samples FROM rounds WHERE round = 1") == [(3, 19)]


@pytest.mark.parametrize("order", list(permutations("abcd")), ids="".join)
def test_in_whatever_order_they_came_and_whenever_it_leaves_the_bits_are_the_same(
    runs: Runs, order: Sequence[str]
) -> None:
    expected = runs.without_b()
    for place in range(order.index("b") + 1, 5):
        runs.allowed.write("abcd")
        run = runs.begin(f"run-{place}", commit_every_s=AT_ONCE_S if place % 2 else 1000.0)
        for worker in order[:place]:
            answer(run, worker)
        leave(run, runs.allowed)
        for worker in order[place:]:
            answer(run, worker)
        assert closed(run) == expected


def test_a_stale_update_goes_with_the_weight_that_it_came_with(runs: Runs) -> None:
    def second_round(run: EmbeddedRun, workers: str) -> None:
        run.pass_time(DEADLINE_S)
        assert run.round == 2
        for worker in workers:
            message = run.update(worker, delta(worker), num_samples=SAMPLES[worker], round=1)
            run.site.send(message, worker=worker)
        answer(run, "a", number=2)

    digests, totals = [], []
    for name, workers in (("undisturbed", "d"), ("run", "bd")):
        runs.allowed.write("abcd")
        run = runs.begin(name, max_staleness=1)
        answer(run, "c")
        second_round(run, workers)
        leave(run, runs.allowed)
        totals.append(sum(update.base_weight for update in run.aggregator._current.updates.counting))
        run.pass_time(DEADLINE_S)
        digests.append(run.query("SELECT model_sha256, num_samples FROM rounds WHERE round = 2"))
    assert totals == [8, 8]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("restarts", [False, True], ids=["goes on", "restarted"])
def test_an_accumulator_that_keeps_the_updates_lets_one_go_and_takes_it_again(runs: Runs, restarts: bool) -> None:
    expected = runs.without_b(toys=("spool",))
    run = runs.begin(commit_every_s=AT_ONCE_S, toys=("spool",))
    for worker in "abc":
        answer(run, worker)
    leave(run, runs.allowed)
    leave(run, runs.allowed, "abcd")
    answer(run, "b")
    if restarts:
        run = runs.again(run)
    leave(run, runs.allowed)
    answer(run, "d")
    assert closed(run) == expected
    assert rows(run)[1::2] == [("b", "withdrawn"), ("b", "withdrawn")]


def test_its_row_says_why_and_it_counts_nowhere_any_more(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S)
    for worker in "ab":
        run.announce(worker)
        answer(run, worker)
    leave(run, runs.allowed)
    assert run.query("SELECT worker, verdict, reason FROM updates") == [
        ("a", "folded", None),
        ("b", "withdrawn", "is not among those that may count (--workers-allowed)"),
    ]
    assert [record.message for record in caplog.records if "withdrawn" in record.message] == [
        "round   1 → b                     7 samples  withdrawn: it is not among those that may count"
        " (--workers-allowed)"
    ]
    assert run.aggregator._current.num_present == 1
    answer(run, "b")
    assert run.reasons == ["worker 'b' is not among those that may count (--workers-allowed)"]


def test_one_that_comes_back_in_the_same_round_counts_again(runs: Runs) -> None:
    run = runs.begin("undisturbed")
    for worker in "ab":
        answer(run, worker)
    expected = closed(run)
    run = runs.begin(commit_every_s=AT_ONCE_S)
    for worker in "ab":
        answer(run, worker)
    leave(run, runs.allowed)
    leave(run, runs.allowed, "abcd")
    answer(run, "b")
    assert rows(run) == [("a", "folded"), ("b", "withdrawn"), ("b", "folded")]
    assert closed(run) == expected


def test_when_all_leave_the_round_is_empty_and_goes_on(runs: Runs) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S)
    answer(run, "b")
    leave(run, runs.allowed)
    assert not list(run.folder.glob("sum-*"))
    run = runs.again(run)
    assert run.num_folded == 0
    for worker in "acd":
        answer(run, worker)
    assert closed(run) == runs.without_b()


def test_a_round_that_closed_before_is_not_changed(runs: Runs) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S)
    for worker in "ab":
        answer(run, worker)
    before = closed(run)
    leave(run, runs.allowed)
    assert run.query("SELECT model_sha256 FROM rounds WHERE round = 1") == [(before,)]
    assert rows(run) == [("a", "folded"), ("b", "folded")]


def test_the_list_is_looked_at_when_the_aggregator_comes_back(runs: Runs) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S)
    for worker in "ab":
        answer(run, worker)
    runs.allowed.write("acd")
    run = runs.again(run)
    assert run.num_folded == 1
    for worker in "cd":
        answer(run, worker)
    assert closed(run) == runs.without_b()


def test_bodies_are_kept_for_their_round_and_for_nobody_else_to_read(runs: Runs) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S, part_bytes=64)
    for worker in "ab":
        answer(run, worker, part_bytes=None if worker == "a" else 64)
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept(run)] == [0o600, 0o600]
    assert not [name for name in run.broker.blobs if ".update." in name]
    leave(run, runs.allowed)
    assert len(kept(run)) == 1
    closed(run)
    assert kept(run) == []


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
def test_a_body_that_was_stored_on_its_way_is_kept_without_being_written_again(tmp_path: Path) -> None:
    specs, payload = specs_of(INITIAL), payload_of(delta("a"))
    digest = Digest(specs, "blake3")
    digest.add(payload)
    blob = BlobRef(name="updates.blob.update.a", part_bytes=MAX_PART_BYTES)
    body = InFile(Tensors(tensors=specs, blake3=digest.hex(), blob=blob), is_zstd=False, folder=tmp_path)
    body.add(payload)
    kept = KeptBodies(tmp_path, specs, epoch=1)
    name, blake3 = kept.write(1, _never_read(), blake3=digest.hex(), take_name=body.take_name)
    body.close()
    kept.check(name, blake3)
    assert stat.S_IMODE((tmp_path / "bodies" / name).stat().st_mode) == 0o600


def _never_read() -> Iterator[bytes]:
    raise AssertionError("its bytes are read again")
    yield b""


def test_without_a_list_that_may_change_no_body_is_kept(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), commit_every_s=AT_ONCE_S, workers_allowed="a,b")
    run.fold_all([("a", delta("a"))])
    assert kept(run) == []


def test_with_a_disk_that_is_nearly_full_no_body_is_kept_and_the_run_goes_on(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100_000))
    for worker in "ab":
        answer(run, worker)
    assert kept(run) == []
    leave(run, runs.allowed)
    assert rows(run) == [("a", "folded"), ("b", "folded")]
    assert sum("the disk is nearly full" in record.message for record in caplog.records) == 1
    assert sum("still count in it" in record.message for record in caplog.records) == 1


def test_what_was_folded_before_there_was_a_list_stays_and_is_named_once(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S, workers_allowed=None)
    run.aggregator.close()
    run = EmbeddedRun.make(
        run.folder, run.task, broker=run.broker, clock=run.clock, quorum="9", commit_every_s=AT_ONCE_S
    )
    runs.made.append(run.start())
    for worker in "ab":
        answer(run, worker)
    run.settings = run.settings.model_copy(update={"workers_allowed": str(runs.allowed.path)})
    runs.allowed.write("acd")
    run = runs.again(run)
    leave(run, runs.allowed, "cd")
    assert rows(run) == [("a", "folded"), ("b", "folded")]
    assert [record.message[:41] for record in caplog.records if "still count" in record.message] == [
        "round 1: the updates of b still count in ",
        "round 1: the updates of a still count in ",
    ]


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_body_has_the_round_done_again_after_the_next_start(runs: Runs, damage: str) -> None:
    run = runs.begin(commit_every_s=AT_ONCE_S)
    for worker in "ab":
        answer(run, worker)
    for path in kept(run):
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(DamagedFile, match=r"bodies/1-00001-1\.body"):
        leave(run, runs.allowed)
    run = runs.again(run)
    assert rows(run) == [("a", "undone"), ("b", "undone")]
    for worker in "acd":
        answer(run, worker)
    assert closed(run) == runs.without_b()


# -- kills ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As kill -9, for the test."""


STEPS: list[tuple[type, str]] = [
    (KeptBodies, "write"),
    (Ledger, "commit"),
    (Ledger, "_insert_kept"),
    (KeptBodies, "check"),
    (ExactSum, "remove"),
    (ExactSum, "end_removal"),
    (StateDirectory, "save_sum"),
    (Ledger, "withdraw"),
    (Ledger, "_set"),
    (KeptBodies, "remove"),
    (StateDirectory, "remove_sums"),
    (Ledger, "close_round"),
    (KeptBodies, "remove_all"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=lambda each: getattr(each, "__name__", each))
def test_killed_at_any_call_of_a_step_it_ends_with_the_same_bits(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, when: str
) -> None:
    expected = runs.without_b()
    original = getattr(owner, step)
    for call in count(1):
        calls = count(1)

        def killed(*args: Any, calls: Iterator[int] = calls, call: int = call, **kwargs: Any) -> Any:
            is_now = next(calls) == call
            if is_now and when == "before":
                raise Killed
            result = original(*args, **kwargs)
            if is_now:
                raise Killed
            return result

        runs.allowed.write("abcd")
        run = runs.begin(f"run-{call}", commit_every_s=AT_ONCE_S)
        answer(run, "a")
        monkeypatch.setattr(owner, step, killed)
        run, is_killed = carried_on(runs, run)
        monkeypatch.undo()
        assert closed(run) == expected
        assert run.query("SELECT count(*) FROM updates WHERE verdict = 'folded' AND worker = 'b'") == [(0,)]
        assert kept(run) == []
        if not is_killed:
            assert call > 1, "the step was never taken"
            return


def carried_on(runs: Runs, run: EmbeddedRun) -> tuple[EmbeddedRun, bool]:
    """From b's answer to the end of the round, with a new start after a kill; whether there was one."""
    actions: list[Callable[[EmbeddedRun], object]] = [
        lambda run: answer(run, "b"),
        lambda run: leave(run, runs.allowed),
        lambda run: answer(run, "c"),
        lambda run: answer(run, "d"),
        lambda run: run.pass_time(DEADLINE_S),
    ]
    is_killed = False
    for action in actions:
        try:
            action(run)
        except Killed:
            is_killed = True
            run = runs.again(run)
            run.settle()
            run.pass_time(2.0)
    return run, is_killed


# -- by roster ------------------------------------------------------------------------------------------------


class Changing:
    """A roster that is another one when the test says so."""

    looks_every_s: float | None = 1.0

    def __init__(self, roster: Roster) -> None:
        self.roster = roster

    def current(self) -> Roster:
        return self.roster


@dataclass
class Federation:
    """Sites a to d with keys, and worker b-2 with a certificate of b."""

    known: InMemory
    rosters: Changing
    run: EmbeddedRun

    def aggregator(self) -> Aggregator:
        trust = Verified(self.rosters, self.known.keys["aggregator"], clock=time.time)
        config = replace(self.run.settings.config, membership=Membership(trust))
        return Aggregator(config, self.run.task, MemoryTransport(self.run.broker), clock=self.run.clock)

    def restart(self) -> None:
        self.run.aggregator.close()
        self.run.aggregator = self.aggregator()
        self.run.start()

    def answer(self, worker: str, keys: PrivateKeys | None = None, certificate: Certificate | None = None) -> None:
        keys = keys or self.known.keys[worker]
        trust = Verified(self.rosters, keys, Fixed(certificate) if certificate else None, clock=time.time)
        values = delta(worker[0])
        head = self.run.update_head(worker, values, num_samples=SAMPLES[worker[0]], model_sha256=self.run.head.sha256)
        self.run.site.send(encode(head, payload_of(values), trust=trust), worker=worker)
        self.run.settle()

    @property
    def folded(self) -> list[str]:
        self.run.aggregator._current.commit()
        return [str(worker) for worker, verdict in rows(self.run) if verdict == "folded"]

    def change(self, roster: Roster) -> None:
        self.rosters.roster = roster
        self.run.settle()


@dataclass
class Fixed:
    """A certificate that stays."""

    certificate: Certificate

    def current(self) -> Certificate:
        return self.certificate


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    known = in_memory("abcd")
    run = EmbeddedRun.make(
        tmp_path / "run", StateTask(INITIAL), quorum="9", min_updates=1, deadline_s=DEADLINE_S, commit_every_s=AT_ONCE_S
    )
    run.aggregator.close()
    made = Federation(known, Changing(known.roster), run)
    run.aggregator = made.aggregator()
    run.start()
    yield made
    run.aggregator.close()


@pytest.mark.parametrize("restarts", [False, True], ids=["goes on", "restarted"])
def test_a_site_that_is_taken_off_the_roster_is_out(runs: Runs, federation: Federation, restarts: bool) -> None:
    run = federation.run
    for worker in "ab":
        federation.answer(worker)
    assert run.aggregator.time_left() <= 1.0
    if restarts:
        federation.rosters.roster = federation.known.roster.without(["b"])
        federation.restart()
    else:
        federation.change(federation.known.roster.without(["b"]))
    assert run.query("SELECT worker, verdict, reason FROM updates") == [
        ("a", "folded", None),
        ("b", "withdrawn", "is not on the roster"),
    ]
    for worker in "cd":
        federation.answer(worker)
    assert closed(run) == runs.without_b()


def test_an_update_under_a_key_that_is_revoked_is_out_although_its_site_has_a_new_key(federation: Federation) -> None:
    for worker in "ab":
        federation.answer(worker)
    new = PrivateKeys.generate("worker", "b")
    federation.change(federation.known.roster.without(["b"]).with_members([new.public]))
    assert federation.folded == ["a"]
    assert federation.run.query("SELECT reason FROM updates WHERE verdict = 'withdrawn'") == [
        ("is on the roster, but not the key that its update is signed with",)
    ]
    federation.answer("b", new)
    assert federation.folded == ["a", "b"]


def test_an_update_whose_body_comes_after_its_key_was_revoked_is_refused(federation: Federation) -> None:
    run, values = federation.run, delta("b")
    blob = BlobRef(name=run.topology.update_blob("b", run.head.run_id, 1), part_bytes=MAX_PART_BYTES)
    head = run.update_head("b", values, blob=blob, model_sha256=run.head.sha256)
    run.broker.blobs[blob.name] = ()
    trust = Verified(federation.rosters, federation.known.keys["b"], clock=time.time)
    run.site.send(encode(head, trust=trust), worker="b")
    run.settle()
    new = PrivateKeys.generate("worker", "b")
    federation.change(federation.known.roster.without(["b"]).with_members([new.public]))
    run.broker.blobs[blob.name] = (payload_of(values),)
    run.settle()
    assert run.reasons == ["worker 'b' is on the roster, but not the key that its update is signed with"]
    assert federation.folded == []


def test_a_worker_with_a_certificate_goes_with_its_key_or_with_its_site(federation: Federation) -> None:
    keys = {name: PrivateKeys.generate("worker", name) for name in ("b-1", "b-2")}
    for name, own in keys.items():
        certificate = Certificate.issue(federation.known.keys["b"], own.public, now=time.time(), days=1)
        federation.answer(name, own, certificate)
    federation.answer("a")
    assert federation.folded == ["b-1", "b-2", "a"]
    without_one = federation.known.roster.without([], [keys["b-1"].public.key_id])
    federation.change(without_one)
    assert federation.folded == ["b-2", "a"]
    federation.change(without_one.without(["b"]))
    assert federation.folded == ["a"]


def test_a_roster_that_changes_otherwise_takes_nobody_out(federation: Federation) -> None:
    for worker in "ab":
        federation.answer(worker)
    federation.change(federation.known.roster.with_members([PrivateKeys.generate("worker", "e").public]))
    assert federation.folded == ["a", "b"]


def test_with_both_a_worker_has_to_be_on_the_list_and_on_the_roster(allowed: List) -> None:
    clock, rosters = Clock(), Changing(in_memory("abx").roster)
    admission = admission_by(rosters, Allowed(str(allowed.path), clock=clock))
    assert [admission.admits(name) for name in ("a", "b-7", "c", "x")] == [True, False, False, False]
    allowed.write("a")
    assert not admission.look()
    clock.now += 1.0
    assert [admission.look(), admission.look()] == [False, False]
    clock.now += 1.0
    assert [admission.look(), admission.look()] == [True, False]
    rosters.roster = rosters.roster.without(["a"])
    assert [admission.look(), admission.look()] == [True, False]
    assert [admission.reason(name) for name in ("a", "b")] == [
        "is not on the roster",
        "is not among those that may count (--workers-allowed)",
    ]


# -- shards ---------------------------------------------------------------------------------------------------


class Named:
    """Admits the workers that it names."""

    looks_every_s: float | None = 1.0

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._has_changed = set(names), False

    def change(self, names: Sequence[str]) -> None:
        self._names, self._has_changed = set(names), True

    def admits(self, worker: str, keys: Sequence[bytes] = ()) -> bool:
        return worker in self._names

    def reason(self, worker: str, keys: Sequence[bytes] = ()) -> str:
        return "has left"

    def look(self) -> bool:
        has_changed, self._has_changed = self._has_changed, False
        return has_changed


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[tuple[ShardedRun, Named, Named]]:
    """A run with one shard, and who is admitted by its root and by its partial aggregator."""
    run = ShardedRun.make(tmp_path / "run", num_shards=1, quorum="9", workers_allowed=str(List(tmp_path / "list").path))
    admissions = Named(SHARDED), Named(SHARDED)
    run.root.aggregator._course.admission, run.partials[0]._admission = map(Excluding, admissions)
    yield run.start(), *admissions
    run.root.aggregator.close()


SHARDED = names_of(0, 3, num_shards=1)


def test_a_partial_aggregator_starts_its_sum_over_without_who_left(
    sharded: tuple[ShardedRun, Named, Named], caplog: pytest.LogCaptureFixture
) -> None:
    run, of_root, of_partial = sharded
    run.answer(SHARDED)
    run.settle()
    of_partial.change(SHARDED[1:])
    of_root.change(SHARDED[1:])
    run.settle()
    assert [record.message for record in caplog.records if "starting the sum over" in record.message] == [
        f"round   1: starting the sum over without {SHARDED[0]}, which may not count any more"
    ]
    run.pass_time()
    assert run.root.reasons == [f"worker '{SHARDED[0]}' has left"]
    run.root.aggregator._current.commit()
    assert {row for row in rows(run.root) if row[1] == "folded"} == {(name, "folded") for name in SHARDED[1:]}


def test_what_the_root_has_of_a_shard_stays_until_the_round_closes_and_is_named_once(
    sharded: tuple[ShardedRun, Named, Named], caplog: pytest.LogCaptureFixture
) -> None:
    run, of_root, _ = sharded
    run.answer(SHARDED)
    run.pass_time()
    for _ in range(2):
        of_root.change(SHARDED[1:])
        run.settle()
    assert run.root.num_folded == 3
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"round 1: the updates of {SHARDED[0]} still count in it, though their workers do not any more: they came in"
        " sums of several, before the aggregator had a list that may change, or while its disk was nearly full"
    ]
