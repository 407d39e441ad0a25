"""What every test can have: an isolated environment, a queue name of its own, and a RabbitMQ."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rabbitmq_cluster import RabbitCluster
from rabbitmq_node import RabbitNode, skip_without_rabbitmq

# What addresses the test run itself, and so stays readable inside a test.
TEST_VARIABLES = ("FEDMQ_TEST_BROKER", "FEDMQ_REQUIRE_BROKER")
COLOUR_VARIABLES = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PY_COLORS", "COLUMNS", "LINES")


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them, and tensors are computed by one thread."""
    for name in list(os.environ):
        if name.startswith("FEDMQ_") and name not in TEST_VARIABLES:
            monkeypatch.delenv(name)
    for name in COLOUR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for commands the test starts, and a torch imported later
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command in this process opens the log, onto a standard error that is gone after its test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A private RabbitMQ, started with the first test that wants one.

    All tests share it, so nobody kills it: see `mortal_node`.
    """
    with _private_node(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture
def mortal_node(tmp_path: Path) -> Iterator[RabbitNode]:
    """A RabbitMQ of the test's own, to be killed: RabbitMQ 3.10 may come back with streams and queues half made."""
    with _private_node(tmp_path / "rabbitmq") as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    """Three nodes for the tests of one file, which may hurt them, and then have to heal them."""
    _needs_private_nodes()
    with RabbitCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@contextmanager
def _private_node(folder: Path) -> Iterator[RabbitNode]:
    _needs_private_nodes()
    with RabbitNode(folder) as running:
        yield running


def _needs_private_nodes() -> None:
    if os.environ.get("FEDMQ_TEST_BROKER"):
        pytest.skip("needs a private node, and FEDMQ_TEST_BROKER names another broker")
    skip_without_rabbitmq()


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> str:
    """The AMQP address of the broker to test against: FEDMQ_TEST_BROKER, or else the private node's."""
    given = os.environ.get("FEDMQ_TEST_BROKER")
    if given:
        return given
    running: RabbitNode = request.getfixturevalue("node")
    return running.url


@pytest.fixture
def queue() -> str:
    """A queue name of the test's own, so that tests share a broker without meeting."""
    return f"t-{secrets.token_hex(6)}"
