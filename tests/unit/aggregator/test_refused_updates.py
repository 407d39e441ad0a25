"""Whatever is wrong with an update: it is set aside with its reason, and the run is as if it had never come."""

from collections.abc import Callable

import msgpack
import pytest
import torch
from unit.aggregator.conftest import Begin
from unit.aggregator.embedded_run import EmbeddedRun, StateTask, payload_of, state_of

from broker.states.tensors import State, digest_of
from broker.wire.buffers import cut
from broker.wire.codec import encode
from broker.wire.messages import BlobRef

INITIAL: State = {"w": torch.zeros(6), "b": torch.tensor(1.0), "n": torch.tensor([5])}
DELTA: State = {"w": torch.arange(6.0), "b": torch.tensor(0.5), "n": torch.tensor([1])}
"""As it travels: 'n' (8 bytes), 'b', 'w' (28): parts of 16 bytes, the last of 4."""
NUM_BYTES = 36


def with_blob(run: EmbeddedRun, parts: list[bytes] | None, **changes: object) -> bytes:
    """A bad update whose body is in a blob of 16-byte parts, or, with None, in one that is not there."""
    name = run.topology.update_blob("bad", run.head.run_id, run.round)
    if parts is not None:
        run.site.write_blob(name, parts)
    blob = BlobRef(name=name, part_bytes=16)
    return encode(run.update_head("bad", DELTA, **({"blob": blob} | changes)))


def parts_of(state: State) -> list[bytes]:
    return list(cut([payload_of(state)], 16))


def changed(**tensors: torch.Tensor) -> State:
    return DELTA | tensors


def bomb(run: EmbeddedRun) -> bytes:
    packed = msgpack.packb({"tensors": [["w", "float32", [2**39]]]})
    return b"FMQ\x02" + len(packed).to_bytes(4, "little") + bytes(4) + packed + bytes(64)


NAN = torch.tensor([0, 0, 0, 0, 0, float("nan")])
Bad = Callable[[EmbeddedRun], bytes]
BAD: dict[str, tuple[Bad, str]] = {
    "garbage": (lambda run: b"\x00\x01garbage", "not a fedmq message"),
    "nothing": (lambda run: b"", "not a fedmq message"),
    "pickle": (lambda run: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.", "not a fedmq message"),
    "model message": (lambda run: run.broker.heads[-1], "UpdateHead"),
    "truncated": (lambda run: run.update("bad", DELTA)[:-1], "its tensors need 36"),
    "too long": (lambda run: run.update("bad", DELTA) + b"\0", "its tensors need 36"),
    "truncated header": (lambda run: run.update("bad", DELTA)[:50], "cut off"),
    "huge tensor": (bomb, "UpdateHead"),
    "wrong sender": (lambda run: run.update("good", DELTA), "but came with the key of 'bad'"),
    "wrong run": (lambda run: run.update("bad", DELTA, run_id="other.1"), "update of run other.1"),
    "future round": (lambda run: run.update("bad", DELTA, round=run.round + 1), "which is not open; the open one is 1"),
    "round 0": (lambda run: run.update("bad", DELTA, round=0), "which is not open"),
    "missing tensor": (lambda run: run.update("bad", {"w": DELTA["w"]}), "has no tensor"),
    "foreign set": (
        lambda run: run.update("bad", DELTA, sets=("control",)),
        "has the tensor sets control, but this run has only the model's",
    ),
    "extra tensor": (lambda run: run.update("bad", changed(x=NAN)), "has a tensor 'x'"),
    "far too many tensors": (
        lambda run: run.update("bad", changed(**{f"x{number}": torch.zeros(1) for number in range(200)})),
        "announces 203 tensors; at most 106 are read here",
    ),
    "wrong shape": (lambda run: run.update("bad", changed(w=torch.zeros(2, 3))), "of shape [2, 3], not [6]"),
    "wrong dtype": (lambda run: run.update("bad", changed(w=torch.zeros(6).double())), "of dtype float64"),
    "wrong digest": (lambda run: run.update("bad", DELTA, sha256="0" * 64), "does not match its digest"),
    "nan": (lambda run: run.update("bad", changed(w=NAN)), "'w' holds NaN or infinity"),
    "infinity": (lambda run: run.update("bad", changed(b=torch.tensor(float("inf")))), "'b' holds NaN or infinity"),
    "out of range": (lambda run: run.update("bad", changed(b=torch.tensor(1e30))), "must stay below"),
    "out of range by samples": (
        lambda run: run.update("bad", changed(b=torch.tensor(1e3)), num_samples=2**29 - 1),
        "must stay below",
    ),
    "blob gone": (lambda run: with_blob(run, None), "is gone"),
    "blob of other parts": (
        lambda run: run.update("bad", DELTA, blob_bytes=8),
        "its blob has parts of 8 bytes; this run has parts of 16 or 8388608",
    ),
    "blob's first part cut": (lambda run: with_blob(run, [b"x", *parts_of(DELTA)[1:]]), "a part of 1 bytes where 16"),
    "blob's last part cut": (lambda run: with_blob(run, [*parts_of(DELTA)[:2], b"x"]), "a part of 1 bytes where 4"),
    "blob's digest": (lambda run: with_blob(run, parts_of(changed(w=torch.ones(6)))), "digest"),
    "blob's nan": (
        lambda run: with_blob(run, parts_of(changed(w=NAN)), sha256=digest_of(changed(w=NAN))),
        "'w' holds NaN or infinity",
    ),
    "foreign blob": (
        lambda run: with_blob(run, None, blob=BlobRef(name=run.topology.models, part_bytes=16)),
        "names a blob that is not its own: updates.models",
    ),
    "another worker's blob": (
        lambda run: with_blob(
            run, None, blob=BlobRef(name=run.topology.update_blob("a", run.head.run_id, 1), part_bytes=16)
        ),
        "names a blob that is not its own",
    ),
    "no blob's name": (
        lambda run: with_blob(
            run, None, blob=BlobRef(name=f"{run.topology.update_blob('bad', run.head.run_id, 1)}.10", part_bytes=16)
        ),
        "names a blob that is not its own",
    ),
    "body and blob": (lambda run: with_blob(run, None) + payload_of(DELTA), "also names a blob"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_update_is_set_aside_and_leaves_no_trace_in_the_model(begin: Begin, name: str) -> None:
    """It comes between two good ones; the model is bit for bit that of a run with the good ones alone."""
    make, reason = BAD[name]
    good = [("a", DELTA), ("b", {key: tensor * 3 for key, tensor in DELTA.items()})]
    alone, run = (begin(StateTask(INITIAL), folder=folder, part_bytes=16) for folder in ("alone", "run"))
    alone.fold_all(good)

    body = make(run)
    run.send(*good[0])
    run.site.send(body, worker="bad")
    run.send(*good[1])
    run.settle(most=100)

    assert run.round == alone.round == 2
    assert run.head.sha256 == alone.head.sha256
    assert len(run.reasons) == 1
    assert reason in run.reasons[0]
    assert "\n" not in run.reasons[0]
    assert (run.broker.dead[0].body, run.broker.dead[0].sender) == (body, "bad")
    assert sorted(run.verdicts()) == [("a", "folded"), ("b", "folded"), ("bad", "refused")]
    assert run.verdicts("reason").count((run.reasons[0],)) == 1


@pytest.mark.parametrize("name", ["blob's digest", "blob's nan", "blob's last part cut"])
def test_a_bad_body_in_a_blob_costs_others_nothing(begin: Begin, name: str) -> None:
    """With one update that is committed, one that is not, and a duplicate that waits for the commit."""
    alone, run = (begin(StateTask(INITIAL), folder=folder, part_bytes=16, quorum="3") for folder in ("alone", "run"))
    for each in (alone, run):
        each.fold_all([("committed", DELTA)])
        each.aggregator.finish()
        each.fold_all([("pending", DELTA)])
        each.fold_all([("committed", DELTA)], instance="ffffffff")
    run.site.send(BAD[name][0](run), worker="bad")
    run.settle(most=100)
    for each in (alone, run):
        each.fold_all([("last", {key: tensor * 3 for key, tensor in DELTA.items()})])

    assert run.round == alone.round == 2
    assert run.head.sha256 == alone.head.sha256
    assert len(run.reasons) == 1
    assert sorted(run.verdicts()) == sorted([*alone.verdicts(), ("bad", "refused")])


def test_a_late_update_before_a_broken_blob_is_counted_once(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), part_bytes=16)
    run.fold_all([("a", DELTA), ("b", DELTA)])
    assert run.round == 2
    run.fold_all([("late", DELTA)], round=1)
    run.site.send(BAD["blob's digest"][0](run), worker="bad")
    run.settle(most=100)
    assert run.verdicts().count(("late", "late")) == 1


def test_a_run_goes_on_under_a_hail_of_bad_updates(begin: Begin) -> None:
    """From three senders: what one of them sends beyond its quota is not even looked at."""
    run = begin(StateTask(INITIAL), rounds=2)
    makers = [make for name, (make, _) in BAD.items() if "blob" not in name]
    for number in range(2):
        for index, make in enumerate(makers):
            run.site.send(make(run), worker=f"bad-{index % 3}")
        run.settle()
        run.fold_all([("a", DELTA), ("b", DELTA)])
        assert len(run.reasons) == (number + 1) * len(makers)
    assert run.aggregator.is_finished
    assert [refused for (refused,) in run.closed("num_refused")] == [len(makers)] * 2


def test_bad_signs_of_life_are_dropped(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="100%")
    for body in (b"", b"garbage", run.update("a", DELTA)):
        run.site.announce(body, worker="a")
    run.settle()
    run.announce("a")
    run.announce("b")
    run.fold_all([("a", DELTA)])
    assert run.round == 1
    run.fold_all([("b", DELTA)])
    assert run.round == 2


def test_a_sign_of_life_in_another_worker_s_name_is_dropped(begin: Begin) -> None:
    run = begin(StateTask(INITIAL), quorum="100%")
    run.announce("a")
    run.site.announce(run.broker.heads[-1], worker="b")
    run.fold_all([("a", DELTA)])
    assert run.round == 2


def test_an_update_for_integers_is_wide_and_booleans_do_not_travel(begin: Begin) -> None:
    run = begin(StateTask({"n": torch.tensor([250], dtype=torch.uint8), "mask": torch.tensor([True])}), quorum="1")
    run.fold_all([("a", state_of(n=[3], mask=torch.tensor([True])))])
    assert "has a tensor 'mask'" in run.reasons[0]
    run.fold_all([("a", state_of(n=[100]))])
    assert run.model["n"].tolist() == [255]
    assert run.model["mask"].tolist() == [True]
