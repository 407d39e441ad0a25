"""The broker is killed while a blob is on its way to it: whoever sends it sends it again, and no bit changes.

The queues are older than the second that RabbitMQ 3.10 needs for them to survive, the blob's stream is not.
"""

from pathlib import Path

import pytest
from crash.cells import NAMES, NUM_ROUNDS, PACES
from crash.fleet import AGGREGATOR, BLOB, COMMIT_AT_ONCE, Fleet
from crash.points import MODEL_BLOB, NUM_PARTS, PART, UPDATE_BLOB
from rabbitmq_node import RabbitNode, wait_until

ON_WIRE = "pika.channel:Channel.queue_declare"
SOON_S = 90.0

FAST = {"broker.rabbitmq.links.link:_MAX_BACKOFF_S": 1.0}
"""How long to wait for a broker that is away; by default up to 30 s."""

IN_MID_DECLARE_S = 0.015
"""A stream asked for so shortly before is half made: RabbitMQ 3.10 can then neither use it nor delete it."""

MOMENTS = {
    "update blob's stream asked for": ("anna", ON_WIRE, 2, UPDATE_BLOB, 0.0),
    "update blob's stream half made": ("anna", ON_WIRE, 2, UPDATE_BLOB, IN_MID_DECLARE_S),
    "update blob, first part": ("anna", PART, NUM_PARTS + 1, UPDATE_BLOB, 0.0),
    "update blob, last part": ("anna", PART, 2 * NUM_PARTS, UPDATE_BLOB, 0.0),
    "model blob's stream half made": (AGGREGATOR, ON_WIRE, 3, MODEL_BLOB, IN_MID_DECLARE_S),
    "model blob, middle part": (AGGREGATOR, PART, 2 * NUM_PARTS + 3, MODEL_BLOB, 0.0),
}


@pytest.fixture(scope="module")
def expected(node: RabbitNode, tmp_path_factory: pytest.TempPathFactory) -> str:
    with _fleet(tmp_path_factory.mktemp("calm"), node, "calm-upload") as fleet:
        for name in fleet.everybody:
            fleet.start(name)
        assert [fleet.members[name].wait(SOON_S) for name in fleet.everybody] == [0, 0, 0], fleet.logs()
        assert fleet.final_sha256 is not None
        return fleet.final_sha256


def _fleet(folder: Path, node: RabbitNode, queue: str) -> Fleet:
    return Fleet(
        folder,
        url=node.url,
        queue=queue,
        names=NAMES,
        rounds=NUM_ROUNDS,
        flags=BLOB,
        aggregator_flags=COMMIT_AT_ONCE,
        paces=PACES,
    )


@pytest.mark.timeout(480)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_broker_killed_in_an_upload_changes_no_bit(
    moment: str, expected: str, mortal_node: RabbitNode, tmp_path: Path, queue: str
) -> None:
    node = mortal_node
    name, target, call, about, delay_s = MOMENTS[moment]
    trigger = {"target": target, "when": "after", "call": call, "about": about, "victim": node.pid, "delay_s": delay_s}
    with _fleet(tmp_path, node, queue) as fleet:
        for member in fleet.everybody:
            fleet.start(member, trigger if member == name else None, constants=FAST)
        try:
            assert wait_until(lambda: not node.is_running, timeout_s=SOON_S), fleet.logs()
        finally:
            node.kill()
            node.start()
        statuses = [fleet.members[member].wait(SOON_S) for member in fleet.everybody]
        assert statuses == [0, 0, 0], fleet.logs(num_lines=12)
        assert fleet.miscounted() == {}
        assert fleet.final_sha256 == expected
