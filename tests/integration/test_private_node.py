"""The tests' own RabbitMQ: it starts, keeps what it confirmed through a kill -9, leaves nothing behind."""

import subprocess
import sys
import time
from pathlib import Path

import pika
import psutil
import pytest
from rabbitmq_node import NodeError, RabbitNode, skip_without_rabbitmq

TESTS = Path(__file__).parent.parent

# RabbitMQ 3.10 writes the registration of a new quorum queue to disk up to half a second after the declare;
# a node that is killed before that comes back with a queue that has no leader.
REGISTRATION_S = 1.5


@pytest.fixture
def own_node(tmp_path: Path) -> RabbitNode:
    skip_without_rabbitmq()
    return RabbitNode(tmp_path / "node")


def processes_that_mention(text: str) -> list[psutil.Process]:
    """The processes with `text` in their environment or command line, except this one."""
    found = []
    for process in psutil.process_iter():
        try:
            about = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != psutil.Process().pid and any(text in part for part in about):
            found.append(process)
    return found


def test_a_node_answers_its_own_control_command(node: RabbitNode) -> None:
    assert node.ctl("eval", "node().").strip() == f"'{node.name}'"
    assert psutil.Process(node.pid).name() == "beam.smp"


def test_a_confirmed_message_survives_kill_and_restart(node: RabbitNode, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        time.sleep(REGISTRATION_S)
        channel.basic_publish("", queue, b"kept", pika.BasicProperties(delivery_mode=2), mandatory=True)
        before = node.pid
        node.kill()
        with pytest.raises(pika.exceptions.AMQPError):
            channel.queue_declare(queue, passive=True)

    assert not node.is_running
    node.restart()

    assert node.pid != before
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        channel = connection.channel()
        _, _, body = next(channel.consume(queue, inactivity_timeout=30))
        channel.cancel()
        channel.queue_delete(queue)
    assert body == b"kept"


def test_nothing_remains_running_after_stop(own_node: RabbitNode) -> None:
    with own_node:
        names = {process.name() for process in processes_that_mention(str(own_node.folder))}
        assert {"beam.smp", "epmd"} <= names
    assert processes_that_mention(str(own_node.folder)) == []


def test_a_node_ends_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    skip_without_rabbitmq()
    program = (
        "import sys, pathlib, rabbitmq_node as r\n"
        "n = r.RabbitNode(pathlib.Path(sys.argv[1])); n.start(); print(n.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "node")],
        cwd=TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        beam = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    psutil.wait_procs([beam, *processes_that_mention(str(tmp_path))], timeout=10)
    assert processes_that_mention(str(tmp_path)) == []


def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    skip_without_rabbitmq()
    broken = RabbitNode(tmp_path / "node", extra_config="no_such_key = 1")
    with pytest.raises(NodeError, match="no_such_key"):
        broken.start()
    assert processes_that_mention(str(broken.folder)) == []
