"""Every boundary of the commit path, by name: where a process is killed, in the calls of the product's functions.

The run they are counted in has three rounds and two workers, of which one answers first; the aggregator commits after
each update. So a round is: fold, commit (sum file, ledger, ack), fold, close (model file, ledger, publish, ack). A
blob has five parts. Most points lie in round 2, where there is something before and something after.
"""

from dataclasses import dataclass
from typing import Any

SMALL, BLOB = "small", "blob"
SIZES = (SMALL, BLOB)
NUM_PARTS = 5


@dataclass(frozen=True, slots=True)
class Point:
    """Killed ``when`` the ``call``-th call of ``target`` whose arguments show ``about`` begins or has ended.

    ``calls`` gives the call for each size of model (see SIZES); a size that is not there does not come by.
    """

    name: str
    member: str
    target: str
    when: str
    calls: tuple[tuple[str, int], ...]
    about: str = ""

    def trigger(self, size: str) -> dict[str, Any]:
        """What ``armed.arm`` takes."""
        return {"target": self.target, "when": self.when, "call": dict(self.calls)[size], "about": self.about}

    def applies(self, size: str) -> bool:
        return size in dict(self.calls)


def _both(call: int) -> tuple[tuple[str, int], ...]:
    return ((SMALL, call), (BLOB, call))


def _blob(call: int) -> tuple[tuple[str, int], ...]:
    return ((BLOB, call),)


FOLD = "aggregator.rounds.open_round:OpenRound.fold"
ADD = "aggregator.rounds.exact_sum:ExactSum.add"
SAVE_FILE = "aggregator.state.checkpoint:save_file"
SYNC = "aggregator.state.checkpoint:_sync"
RENAME = "aggregator.state.checkpoint:Path.replace"
SYNC_FOLDER = "aggregator.state.checkpoint:sync_folder"
COMMIT = "aggregator.state.ledger:Ledger.commit"
CLOSE_ROUND = "aggregator.state.ledger:Ledger.close_round"
INSERT = "aggregator.state.ledger:Ledger._insert"
SET = "aggregator.state.ledger:Ledger._set"
OPEN = "aggregator.state.ledger:Ledger._open"
OPEN_ROUND = "aggregator.state.ledger:Ledger.open_round"
RECORD = "aggregator.state.ledger:Ledger.record"
CLAIM = "aggregator.state.ledger:Ledger.claim"
WRITE_PIECE = "aggregator.state.checkpoint:NewModel.write"
FINISH_MODEL = "aggregator.state.checkpoint:NewModel.finish"
WRITE_MODEL = "aggregator.state.checkpoint:StateDirectory.write_model"
INSTALL = "aggregator.state.checkpoint:WrittenModel.install"
LOAD_SUM = "aggregator.state.checkpoint:StateDirectory.load_sum"
REMOVE_SUMS = "aggregator.state.checkpoint:StateDirectory.remove_sums"
KEEP_ONLY = "aggregator.state.checkpoint:StateDirectory.keep_only"
LINK = "aggregator.state.checkpoint:StateDirectory.link"
SUMMARY = "aggregator.state.checkpoint:StateDirectory.write_summary"
OPEN_RUN = "aggregator.opening.opening:open_run"
ENSURE = "aggregator.opening.broadcast:Broadcaster.ensure"
PUBLISH = "aggregator.opening.broadcast:Broadcaster.publish"
LEAD = "broker.rabbitmq.transport:RabbitMQ.lead"
DECLARE = "broker.rabbitmq.transport:RabbitMQ.declare"
NEWEST = "broker.rabbitmq.transport:RabbitMQ.newest_head"
WRITE_BLOB = "broker.rabbitmq.transport:RabbitMQ.write_blob"
PART = "broker.rabbitmq.blobs:_publish_part"
HEAD = "broker.rabbitmq.transport:RabbitMQ.broadcast"
SEND = "broker.rabbitmq.transport:RabbitMQ.send"
ACK = "broker.rabbitmq.transport:RabbitMQ.ack"
DELETE = "broker.rabbitmq.transport:RabbitMQ.delete_blobs"
READ_PART = "broker.rabbitmq.transport:ack_of"
QUEUE = "pika.adapters.blocking_connection:BlockingChannel.queue_declare"
ON_WIRE = "pika.channel:Channel.basic_publish"
TAKE_PART = "worker.service:Worker._take_part"
TRAIN = "worker.rounds.trainer:Trainer.train"

SUM_FILE, MODEL_FILE, MODELS_FOLDER, STATE_FOLDER = "sum-1-00002", "round-00002", "/models'", "/state'"
MODEL_BLOB, UPDATE_BLOB = ".blob.model.", ".blob.update."


def _around(name: str, target: str, calls: tuple[tuple[str, int], ...], about: str = "") -> list[Point]:
    return [Point(f"{when} {name}", "aggregator", target, when, calls, about) for when in ("before", "after")]


def _one(name: str, target: str, when: str, calls: tuple[tuple[str, int], ...], about: str = "") -> Point:
    return Point(name, "aggregator", target, when, calls, about)


def _of_worker(name: str, target: str, when: str, calls: tuple[tuple[str, int], ...], about: str = "") -> Point:
    return Point(name, "anna", target, when, calls, about)


START = [
    *_around("leading", LEAD, _both(1)),
    *_around("queues declared", DECLARE, _both(1)),
    _one("half of the queues declared", QUEUE, "before", _both(4)),
    *_around("initial model's file written", WRITE_MODEL, _both(1)),
    *_around("initial model in its place", INSTALL, _both(1)),
    *_around("new run recorded", RECORD, _both(1)),
    *_around("epoch claimed", CLAIM, _both(1)),
    _one("in the claim's transaction", SET, "after", _both(2), "'epoch'"),
    *_around("first round opened", OPEN_ROUND, _both(1)),
    *_around("first model published", PUBLISH, _both(1)),
]
COMMITTING = [
    *_around("fold, first of the round", FOLD, _both(3)),
    _one("in mid-fold, nothing committed", ADD, "after", _both(3)),
    *_around("sum file written", SAVE_FILE, _both(1), SUM_FILE),
    *_around("sum file synced", SYNC, _both(1), SUM_FILE),
    *_around("sum file renamed", RENAME, _both(1), SUM_FILE),
    *_around("sum's folder synced", SYNC_FOLDER, _both(2), STATE_FOLDER),
    *_around("commit", COMMIT, _both(2)),
    _one("in the transaction, rows inserted", INSERT, "after", _both(3)),
    _one("in the transaction, sum named", SET, "after", _both(3), "accumulated"),
    *_around("ack of a commit", ACK, _both(3)),
    *_around("update blob deleted after a commit", DELETE, _blob(2), UPDATE_BLOB + "anna"),
    *_around("old sum removed", REMOVE_SUMS, _both(3)),
    *_around("fold, last of the round", FOLD, _both(4)),
    _one("in mid-fold, one update committed", ADD, "after", _both(4)),
    _one("in mid-read of an update blob", READ_PART, "before", _blob(3 * NUM_PARTS + 3)),
]
CLOSING = [
    _one("model file written in part", WRITE_PIECE, "after", _both(3)),
    *_around("model file written", FINISH_MODEL, _both(3)),
    *_around("model file synced", SYNC, _both(1), MODEL_FILE),
    *_around("model file renamed", RENAME, _both(1), MODEL_FILE),
    *_around("model's folder synced", SYNC_FOLDER, _both(3), MODELS_FOLDER),
    *_around("round closed", CLOSE_ROUND, _both(2)),
    _one("in the closing transaction, rows inserted", INSERT, "after", _both(4)),
    _one("in the closing transaction, next round opened", OPEN, "after", _both(3)),
    *_around("model published", PUBLISH, _both(3)),
    _one("model's blob made, empty", PART, "before", _blob(2 * NUM_PARTS + 1), MODEL_BLOB),
    _one("model's blob, first part", PART, "after", _blob(2 * NUM_PARTS + 1), MODEL_BLOB),
    _one("model's blob, middle part", PART, "after", _blob(2 * NUM_PARTS + 3), MODEL_BLOB),
    _one("model's blob, last part", PART, "after", _blob(3 * NUM_PARTS), MODEL_BLOB),
    *_around("head published", HEAD, _both(3)),
    *_around("outdated model blob deleted", DELETE, _blob(1), MODEL_BLOB),
    *_around("ack of a closed round", ACK, _both(4)),
    *_around("update blob deleted after a closed round", DELETE, _blob(2), UPDATE_BLOB + "ben"),
    _one("link to the last model renamed", RENAME, "before", _both(2), ".last.tmp"),
    *_around("old models removed", KEEP_ONLY, _both(2)),
]
ENDING = [
    *_around("last round closed", CLOSE_ROUND, _both(3)),
    *_around("final model published", PUBLISH, _both(1), "'is_finished': True"),
    _one("final model's blob, middle part", PART, "after", _blob(3 * NUM_PARTS + 3), MODEL_BLOB),
    *_around("final head published", HEAD, _both(4)),
    *_around("summary written", SUMMARY, _both(1)),
    _one("summary renamed", RENAME, "before", _both(1), "summary"),
    *_around("last ack", ACK, _both(6)),
]
WORKER = [
    _of_worker("head received", TAKE_PART, "before", _both(2)),
    _of_worker("in mid-read of a model blob", READ_PART, "before", _blob(NUM_PARTS + 3)),
    _of_worker("before training", TRAIN, "before", _both(2)),
    _of_worker("after training", TRAIN, "after", _both(2)),
    _of_worker("before the update blob", WRITE_BLOB, "before", _blob(2)),
    _of_worker("update blob made, empty", PART, "before", _blob(NUM_PARTS + 1), UPDATE_BLOB),
    _of_worker("update blob, first part", PART, "after", _blob(NUM_PARTS + 1), UPDATE_BLOB),
    _of_worker("update blob, middle part", PART, "after", _blob(NUM_PARTS + 3), UPDATE_BLOB),
    _of_worker("update blob, last part", PART, "after", _blob(2 * NUM_PARTS), UPDATE_BLOB),
    _of_worker("update sent, before", SEND, "before", _both(2)),
    _of_worker("update on the wire, not confirmed", ON_WIRE, "after", _both(2), "update.anna"),
    _of_worker("update sent and confirmed", SEND, "after", _both(2)),
    _of_worker("final head received", TAKE_PART, "before", _both(4)),
]

PARTIAL_FOLD = "aggregator.partial:PartialAggregator._fold"
PARTIAL_OPEN = "aggregator.partial:PartialAggregator._open"
PARTIAL_PASS_ON = "aggregator.partial:PartialAggregator._pass_on"
SEND_SUM = "broker.rabbitmq.transport:RabbitMQ.send_partial"
ADD_SUM = "aggregator.rounds.exact_sum:ExactSum.add_limbs"
SUM_BLOB, NUM_SUM_PARTS = ".blob.partial.", 13


def _of_partial(name: str, target: str, calls: tuple[tuple[str, int], ...], about: str = "") -> list[Point]:
    return [Point(f"{when} {name}", "partial-0", target, when, calls, about) for when in ("before", "after")]


PARTIAL = [
    *_of_partial("leading", LEAD, _both(1)),
    *_of_partial("queues declared", DECLARE, _both(1)),
    Point("before open round seen", "partial-0", NEWEST, "before", _both(1)),  # the root may not have made it yet
    *_of_partial("model of the second round seen", PARTIAL_OPEN, _both(2)),
    *_of_partial("fold, first of a round", PARTIAL_FOLD, _both(3)),
    Point("in mid-fold", "partial-0", ADD, "after", _both(3)),
    *_of_partial("fold, last of a round", PARTIAL_FOLD, _both(4)),
    *_of_partial("sum's blob made", WRITE_BLOB, _blob(2)),
    Point("sum's blob made, empty", "partial-0", PART, "before", _blob(NUM_SUM_PARTS + 1), SUM_BLOB),
    Point("sum's blob, middle part", "partial-0", PART, "after", _blob(NUM_SUM_PARTS + 5), SUM_BLOB),
    Point("sum's blob, last part", "partial-0", PART, "after", _blob(2 * NUM_SUM_PARTS), SUM_BLOB),
    Point("sum on the wire, not confirmed", "partial-0", ON_WIRE, "after", _both(2), "'partial.0'"),
    *_of_partial("sum sent", SEND_SUM, _both(2)),
    *_of_partial("update blobs deleted", DELETE, _blob(2), UPDATE_BLOB),
    *_of_partial("ack of what the sum is of", ACK, _both(2)),
    *_around("fold of a partial sum", FOLD, _both(2), "PartialSum("),
    _one("in mid-fold of a partial sum", ADD_SUM, "after", _both(2)),
    *_around("round of partial sums closed", CLOSE_ROUND, _both(2)),
    *_around("sum's blob deleted", DELETE, _blob(2), SUM_BLOB),
    *_around("ack of a partial sum", ACK, _both(2)),
]
"""Of a run with one shard, whose partial sends one sum a round; where it begins with the second, counted from there."""

# -- with a step that remembers two things, or an accumulator that keeps the updates; see toys.py ----------------------

COMPANION_FILE, LAST_COMPANION_FILE, UPDATE_FILE = "round-00002.m.", "round-00002.v.", "sum-1-00002-of-"
INSERT_COMPANIONS = "aggregator.state.ledger:Ledger._insert_companions"
CHECK_COMPANIONS = "aggregator.opening.sound_model:_check_companions"
SAVE, KEEP = "aggregator.spool.spool:Spool.save", "aggregator.spool.spool:Spool.add"
ADOPT, LIST = (
    "aggregator.state.checkpoint:StateDirectory.adopt",
    "aggregator.state.checkpoint:StateDirectory.write_file",
)
JUDGE = "aggregator.spool.spool:Spool.judge"
STEPPING = [
    *_around("companion synced", SYNC, _both(1), COMPANION_FILE),
    *_around("companion renamed", RENAME, _both(1), COMPANION_FILE),
    *_around("last companion renamed", RENAME, _both(1), LAST_COMPANION_FILE),
    *_around("companions named", INSERT_COMPANIONS, _both(2)),
    *_around("round closed", CLOSE_ROUND, _both(2)),
    _one("model file written in part", WRITE_PIECE, "after", _both(3)),
    *_around("model file written", FINISH_MODEL, _both(3)),
    *_around("model file renamed", RENAME, _both(1), "round-00002.safetensors"),
    *_around("model published", PUBLISH, _both(3)),
    *_around("old models removed", KEEP_ONLY, _both(2)),
    *_around("commit", COMMIT, _both(2)),
    *_around("last round closed", CLOSE_ROUND, _both(3)),
]
SPOOL = [
    *_around("fold, first of the round", FOLD, _both(3)),
    _one("in mid-fold, nothing committed", KEEP, "after", _both(3)),
    *_around("updates saved", SAVE, _both(2)),
    *_around("update file put", ADOPT, _both(1), UPDATE_FILE),
    *_around("updates named", LIST, _both(1), "sum-1-00002-1."),
    *_around("commit", COMMIT, _both(2)),
    _one("in the transaction, updates named", SET, "after", _both(3), "accumulated"),
    *_around("ack of a commit", ACK, _both(3)),
    *_around("old updates removed", REMOVE_SUMS, _both(3)),
    *_around("fold, last of the round", FOLD, _both(4)),
    *_around("updates judged", JUDGE, _both(2)),
    *_around("round closed", CLOSE_ROUND, _both(2)),
    *_around("model published", PUBLISH, _both(3)),
    *_around("last round closed", CLOSE_ROUND, _both(3)),
]
TOYS = {"spool": SPOOL}

CRASH_POINTS = [*START, *COMMITTING, *CLOSING, *ENDING, *WORKER]

# -- more than one crash: points of a start that goes on from an earlier one, so they are counted anew --------------


def _again(name: str, target: str, call: int = 1, about: str = "") -> list[Point]:
    return [Point(f"{when} {name}", "aggregator", target, when, _both(call), about) for when in ("before", "after")]


# -- with workers that remember, diverge and measure the last model; see remembering_task.py --------------------------

TAKE_ANSWER = "aggregator.rounds.open_round:OpenRound.take_answer"
CLOSE_EVALUATION = "aggregator.state.ledger:Ledger.close_evaluation"
FINISH = "aggregator.opening.broadcast:Broadcaster.finish"
ANSWER = "worker.rounds.answering:Answers.reply"
READ_CARRIED = "worker.state.carried:_read"
WRITE_CARRIED = "worker.state.carried:save_file"
RENAME_CARRIED = "worker.state.carried:Path.replace"
KEEP_CARRIED = "worker.state.carried:OnDisk.keep"
DIVERGED, MEASURED, CARRIED_FILE = "'diverged'", "'measured'", "round-00002"
OF_CLEO = "sender='cleo'"


def _of_cleo(when: str, target: str, name: str, about: str) -> Point:
    return Point(f"{when} {name}", "cleo", target, when, _both(1), about)


REMEMBERING = [
    _of_worker("memory read", READ_CARRIED, "after", _both(1), "round-00001"),
    _of_worker("before memory written", WRITE_CARRIED, "before", _both(1), CARRIED_FILE),
    _of_worker("before memory renamed", RENAME_CARRIED, "before", _both(1), CARRIED_FILE),
    _of_worker("after memory kept", KEEP_CARRIED, "after", _both(2)),
    _of_worker("after update with memory sent", SEND, "after", _both(2)),
    *(_of_cleo(when, ANSWER, "diverged answer sent", DIVERGED) for when in ("before", "after")),
    _one("after diverged answer taken", TAKE_ANSWER, "after", _both(1), DIVERGED),
    *_around("commit of a diverged answer", COMMIT, _both(1), DIVERGED),
    _one("in the transaction of a diverged answer", INSERT, "after", _both(1), DIVERGED),
    _one("before ack of a diverged answer", ACK, "before", _both(2), OF_CLEO),
    *_around("last round closed by a diverged answer", CLOSE_ROUND, _both(3)),
    _one("last model published to be measured", PUBLISH, "after", _both(1), "'only_evaluate': True"),
    _of_worker("before last model measured", ANSWER, "before", _both(1), MEASURED),
    _of_worker("after last model measured", ANSWER, "after", _both(1), MEASURED),
    _one("after measured answer taken", TAKE_ANSWER, "after", _both(1), MEASURED),
    *_around("commit of a measured answer", COMMIT, _both(1), MEASURED),
    _one("before ack of a measured answer", ACK, "before", _both(4), OF_CLEO),
    *_around("evaluation closed", CLOSE_EVALUATION, _both(1)),
    _one("in the transaction of the evaluation", SET, "after", _both(1), "'measured_round'"),
    *_around("measured model published as the final one", FINISH, _both(1)),
    _one("before summary of a measured run written", SUMMARY, "before", _both(1)),
]
"""Cleo diverges in round 2 and is first to say so; Ben, who is last in each round, in round 3."""


def _named(name: str) -> Point:
    (found,) = [point for point in CRASH_POINTS if point.name == name]
    return found


# -- with SCAFFOLD, whose workers and aggregator each keep a half that has to fit to the other ------------------------

CONTROL_FILE = "round-00002.control_sum."
KEPT = _of_worker("after what is carried kept, before the update", KEEP_CARRIED, "after", _both(2))
SENT = _of_worker("after update sent", SEND, "after", _both(2))
CORRECTING = [
    (KEPT,),
    (SENT,),
    *((point,) for point in _around("sum of control variates renamed", RENAME, _both(1), CONTROL_FILE)),
    (_one("in the closing transaction, sum named", INSERT_COMPANIONS, "after", _both(2)),),
    *((point,) for point in _around("round closed", CLOSE_ROUND, _both(2))),
    (_named("after model published"),),
    (_named("after last round closed"),),
    (SENT, _named("before round closed")),
    (KEPT, _named("after round closed")),
]


COMMITTED, CLOSED = _named("after commit"), _named("after round closed")
LAST_CLOSED, HALF_SENT = _named("after last round closed"), _named("update blob, middle part")

IN_RECOVERY = [
    *[(_named("after initial model in its place"), point) for point in _again("new run recorded", RECORD)],
    *[(COMMITTED, point) for point in _again("epoch claimed", CLAIM)],
    *[(COMMITTED, point) for point in _again("sum loaded", LOAD_SUM)],
    *[(COMMITTED, point) for point in _again("model found on the stream", ENSURE)],
    *[(COMMITTED, point) for point in _again("ack of an update that was committed before", ACK)],
    *[(CLOSED, point) for point in _again("model published after all", PUBLISH)],
    (CLOSED, _one("model's blob, middle part", PART, "after", _blob(3), MODEL_BLOB)),
    (CLOSED, _one("after head published after all", HEAD, "after", _both(1))),
    (CLOSED, _one("before ack of updates of a closed round", ACK, "before", _both(1))),
    *[(LAST_CLOSED, point) for point in _again("final model published after all", PUBLISH)],
    *[(LAST_CLOSED, point) for point in _again("summary written", SUMMARY)],
    (HALF_SENT, _of_worker("update blob made again, empty", PART, "before", _blob(1), UPDATE_BLOB)),
    (HALF_SENT, _of_worker("update blob again, last part", PART, "after", _blob(NUM_PARTS), UPDATE_BLOB)),
    (_named("update sent and confirmed"), _of_worker("update sent a second time", SEND, "after", _both(1))),
]
IN_A_ROW = [
    (_named("after fold, first of the round"), _again("commit", COMMIT)[1], _again("round closed", CLOSE_ROUND)[1]),
    (_named("before sum file renamed"), _again("round closed", CLOSE_ROUND)[0], _again("head published", HEAD)[0]),
    (_named("before head published"), _again("fold", FOLD)[1], _again("fold", FOLD)[0], _again("commit", COMMIT)[1]),
    (_named("after ack of a commit"), _named("update sent and confirmed")),
    (_named("after round closed"), _named("after training")),
    (_named("before model published"), _named("update sent, before"), _again("round closed", CLOSE_ROUND)[1]),
]


def _named_of_partial(name: str) -> Point:
    (found,) = [point for point in PARTIAL if point.name == name]
    return found


PARTIAL_IN_TURN = [
    *[(_named_of_partial("after sum sent"), point) for point in _of_partial("passed on", PARTIAL_PASS_ON, _both(1))],
    *[(_named_of_partial("before sum sent"), point) for point in _of_partial("passed on", PARTIAL_PASS_ON, _both(1))],
    (_named_of_partial("sum on the wire, not confirmed"), _named_of_partial("after round of partial sums closed")),
    (_named_of_partial("after sum sent"), _named_of_partial("before fold of a partial sum")),
    (_named_of_partial("before ack of what the sum is of"), _named("update sent and confirmed")),
]

# -- with a sample of the workers, whose draws are in the ledger before a head says who takes part ---------------------

SAMPLING = [
    *(_named(f"{when} first round opened") for when in ("before", "after")),
    _named("after first model published"),
    *(_named(f"{when} round closed") for when in ("before", "after")),
    *(_named(f"{when} model published") for when in ("before", "after")),
    _named("before training"),
    _named("update sent and confirmed"),
]
