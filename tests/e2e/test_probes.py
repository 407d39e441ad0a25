"""Probes and SIGTERM on the processes themselves, as Kubernetes uses both."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from federation import DEAF, Command, Federation
from rabbitmq_node import RabbitNode, free_port, wait_until

from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)

NAMES = ("worker-0", "worker-1")
RUN = ("--rounds", "3", "--quorum", "2", "--commit-every-s", "0.05")
GRACE_S = 30.0
"""What the chart gives a process to end (``terminationGracePeriodSeconds``) is no less."""


class Probed:
    """A process with a port that probes ask."""

    def __init__(self, start: Callable[..., Command], *flags: str, port_flag: str = "--metrics-port") -> None:
        self._port = free_port()
        self.command = start(*flags, port_flag, str(self._port))

    def asked(self, path: str) -> tuple[int, str]:
        """Status and text of an answer; 0 while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode().strip()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().strip()
        except OSError:
            return 0, ""

    def becomes(self, path: str, status: int, text: str) -> None:
        """Returns when the answer is this one."""
        came = wait_until(
            lambda: (self.asked(path)[0] == status and text in self.asked(path)[1]) or not self.command.is_running,
            timeout_s=60.0,
        )
        assert came, (self.asked(path), self.command.tail)
        assert self.command.is_running, self.command.tail

    def ends_when_told(self) -> int:
        """Its exit code after SIGTERM, which came in time."""
        told_at = time.monotonic()
        self.command.terminate()
        code = self.command.ends()
        assert time.monotonic() - told_at < GRACE_S
        return code


def test_pods_that_are_moved_in_mid_round_change_no_bit(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    """A worker in training, then the aggregator that leads, get SIGTERM; the standby goes on from the same state."""
    expected = undisturbed_sha256(*NAMES, rounds=3)
    federation.gates.hold("worker-1", 2)
    leader = Probed(federation.aggregator, *RUN)
    leader.becomes("/readyz", 200, "leads")
    standby = Probed(federation.aggregator, *RUN)
    standby.becomes("/readyz", 200, "stands by")
    workers = [Probed(federation.worker, name) for name in NAMES]
    for worker in workers:
        worker.becomes("/readyz", 200, "connected")
        assert worker.asked("/healthz") == (200, "alive")

    federation.gates.wait_for("worker-1", 2)
    assert workers[1].ends_when_told() == ExitCode.OK
    assert leader.ends_when_told() == ExitCode.INTERRUPTED  # so that a Job starts another: 0 is a run that is over
    standby.becomes("/readyz", 200, "leads")
    federation.gates.release("worker-1", 2)
    again = federation.worker("worker-1")
    third = federation.aggregator(*RUN)

    ended = [each.ends() for each in (standby.command, workers[0].command, again, third)]
    assert ended == [ExitCode.OK] * 4  # also of the one that led when all was over: so the Job is done
    assert federation.summary["final"]["model_sha256"] == expected
    assert federation.folded() == [(number, name) for number in (1, 2, 3) for name in NAMES]


def test_partials_and_pages_answer_probes_and_end_when_told(federation: Federation) -> None:
    partial = Probed(lambda *flags: federation.partial(0, 1, *flags))
    partial.becomes("/readyz", 503, "waiting")  # for queues that nobody has made
    aggregator = federation.aggregator(*RUN, "--shards", "1")
    partial.becomes("/readyz", 200, "leads")
    aggregator.says("waits for")
    page = Probed(federation.page, port_flag="--port")
    page.becomes("/readyz", 200, "serves")
    assert page.asked("/healthz") == partial.asked("/healthz") == (200, "alive")

    assert page.ends_when_told() == ExitCode.OK
    assert partial.ends_when_told() == ExitCode.INTERRUPTED


def test_a_training_that_hangs_is_told_from_one_that_waits_for_its_broker(
    mortal_federation: Federation, mortal_node: RabbitNode
) -> None:
    federation = mortal_federation
    for number in (1, 2):
        federation.gates.hold("worker-0", number)
    federation.aggregator("--rounds", "2", "--quorum", "1", "--deadline-s", "none")
    worker = Probed(lambda *flags: federation.worker("worker-0", "--hung-after-s", "1", *flags, task=DEAF))
    federation.gates.wait_for("worker-0", 1)
    worker.becomes("/healthz", 503, "the service was last heard of")  # signs of life go on, from another thread
    federation.gates.release("worker-0", 1)
    federation.gates.wait_for("worker-0", 2)

    mortal_node.kill()
    federation.gates.release("worker-0", 2)
    worker.becomes("/readyz", 503, "no broker at")
    assert not wait_until(lambda: worker.asked("/healthz") != (200, "alive"), timeout_s=2.0)
    mortal_node.start()
    assert worker.command.ends() == ExitCode.OK
