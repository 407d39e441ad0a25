"""Killed at any boundary of what a worker carries from round to round, a compressed run ends with the same bits.

The weight travels as int8 with error feedback, in zstd; the bias stays at each worker. With ``--state`` both are there
after a kill.
"""

import signal
from pathlib import Path

import pytest
from crash.cells import NAMES, NUM_ROUNDS, PACES
from crash.fleet import AGGREGATOR, BLOB, COMMIT_AT_ONCE, Fleet
from crash.points import (
    ACK,
    ADD,
    CLOSE_ROUND,
    COMMIT,
    FOLD,
    HEAD,
    LOAD_SUM,
    ON_WIRE,
    PART,
    SEND,
    TRAIN,
    UPDATE_BLOB,
)
from rabbitmq_node import RabbitNode

pytestmark = pytest.mark.timeout(180)

SOON_S = 60.0
COMPRESSED = ("--compression", "int8", "--zstd", "3", "--shared", "weight")
INLINE: tuple[str, ...] = ()

READ = "worker.state.carried:_read"
WRITE = "worker.state.carried:save_file"
SYNC = "console.durable.files:sync"
RENAME = "worker.state.carried:Path.replace"
REMOVE = "worker.state.carried:Path.unlink"
KEEP = "worker.state.carried:OnDisk.keep"

FIRST, SECOND = "round-00001", "round-00002"
Moment = tuple[str, str, str, int, str]
"""Who dies, at the call of what, before or after it, which call, and what its arguments show."""

MOMENTS: dict[str, tuple[Moment, ...]] = {
    "before the first round's file is written": (("anna", WRITE, "before", 1, FIRST),),
    "between what it began with and the first round": (("anna", RENAME, "after", 1, "round-00000"),),
    "before a round's residual is read": (("anna", READ, "before", 1, FIRST),),
    "after training": (("anna", TRAIN, "after", 2, ""),),
    "after a round's file is written": (("anna", WRITE, "after", 1, SECOND),),
    "after a round's file is synced": (("anna", SYNC, "after", 1, SECOND),),
    "before a round's file is renamed": (("anna", RENAME, "before", 1, SECOND),),
    "after a round's file is renamed": (("anna", RENAME, "after", 1, SECOND),),
    "before an old round's file is removed": (("anna", REMOVE, "before", 1, "round-00000"),),
    "after all is kept, before anything is sent": (("anna", KEEP, "after", 2, ""),),
    "update blob, first part": (("anna", PART, "after", 3, UPDATE_BLOB),),
    "update on the wire, not confirmed": (("anna", ON_WIRE, "after", 2, "update.anna"),),
    "update sent and confirmed": (("anna", SEND, "after", 2, ""),),
    "update sent, and once more": (("anna", SEND, "after", 2, ""), ("anna", SEND, "after", 1, "")),
    "kept, then sent": (("anna", KEEP, "after", 2, ""), ("anna", SEND, "after", 1, "")),
    "both workers, one after the other": (("anna", KEEP, "after", 2, ""), ("ben", SEND, "after", 2, "")),
    "aggregator, in mid-fold": ((AGGREGATOR, ADD, "after", 3, ""),),
    "aggregator, after a fold": ((AGGREGATOR, FOLD, "after", 3, ""),),
    "aggregator, after a commit, and with the sum loaded": (
        (AGGREGATOR, COMMIT, "after", 2, ""),
        (AGGREGATOR, LOAD_SUM, "after", 1, ""),
    ),
    "aggregator, round closed": ((AGGREGATOR, CLOSE_ROUND, "after", 2, ""),),
    "aggregator, head published": ((AGGREGATOR, HEAD, "after", 3, ""),),
    "aggregator, before the ack": ((AGGREGATOR, ACK, "before", 4, ""),),
    "aggregator, and a worker that is asked again": (
        (AGGREGATOR, CLOSE_ROUND, "before", 2, ""),
        ("anna", SEND, "after", 2, ""),
    ),
}
SIZES = {"inline": INLINE, "in parts": BLOB}
CELLS = [(moment, "in parts" if "part" in moment or AGGREGATOR in moment else "inline") for moment in MOMENTS]


def _fleet(folder: Path, node: RabbitNode, queue: str, size: tuple[str, ...]) -> Fleet:
    return Fleet(
        folder,
        url=node.url,
        queue=queue,
        names=NAMES,
        rounds=NUM_ROUNDS,
        flags=size,
        aggregator_flags=(*COMMIT_AT_ONCE, *COMPRESSED),
        worker_flags=("--state", str(folder / "carried")),
        paces=PACES,
    )


@pytest.fixture(scope="module")
def expected(node: RabbitNode, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the final model when nothing disturbs."""
    node.start()
    with _fleet(tmp_path_factory.mktemp("calm"), node, "calm-compressed", INLINE) as fleet:
        for name in fleet.everybody:
            fleet.start(name)
        assert [fleet.members[name].wait(SOON_S) for name in fleet.everybody] == [0, 0, 0], fleet.logs()
        assert fleet.final_sha256 is not None
        sha256 = fleet.final_sha256
    fleet.delete_queues()
    return sha256


@pytest.mark.parametrize(("moment", "size"), CELLS, ids=[f"{moment} [{size}]" for moment, size in CELLS])
def test_killed_while_it_compresses_it_ends_with_the_same_bits(
    moment: str, size: str, expected: str, node: RabbitNode, tmp_path: Path, queue: str
) -> None:
    armed: dict[str, list[Moment]] = {}
    for each in MOMENTS[moment]:
        armed.setdefault(each[0], []).append(each)
    with _fleet(tmp_path, node, queue, SIZES[size]) as fleet:
        for name in fleet.everybody:
            start(fleet, name, armed)
        while armed:
            for name in list(armed):
                assert fleet.members[name].wait(SOON_S) == -signal.SIGKILL, fleet.logs()
                start(fleet, name, armed)
        assert [fleet.members[name].wait(SOON_S) for name in fleet.everybody] == [0, 0, 0], fleet.logs()
        assert fleet.miscounted() == {}
        assert fleet.final_sha256 == expected, fleet.logs()
    assert fleet.delete_queues() == []


def start(fleet: Fleet, name: str, armed: dict[str, list[Moment]]) -> None:
    """Starts a member, armed with its next moment if it has one; ``armed`` keeps whoever is still to die."""
    moments = armed.get(name, [])
    trigger = None
    if moments:
        _, target, when, call, about = moments.pop(0)
        trigger = {"target": target, "when": when, "call": call, "about": about}
    elif name in armed:
        del armed[name]
    fleet.start(name, trigger)
