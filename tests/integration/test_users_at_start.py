"""A broker that loads what `fl-keys permissions --json` prints: as docker-compose.yml starts it."""

from contextlib import closing
from pathlib import Path

import pytest
from rabbitmq_node import RabbitNode, skip_without_rabbitmq, wait_until

from broker import BrokerSettings, Source, Transport, connect
from console import BrokerFault, BrokerRefused, BrokerUnreachable, settings_of
from operations.keys_cli import main

SOON_S = 20.0
USERS = {
    "aggregator": ["--role", "aggregator"],
    "onlooker": ["--role", "onlooker"],
    "site": ["--role", "worker", "--elastic"],
}


def settings(node: RabbitNode, user: str, password: str) -> BrokerSettings:
    url = f"amqp://{user}:{password}@127.0.0.1:{node.port}/"
    return settings_of(BrokerSettings, {"broker": url, "connect_timeout_s": 0.0})


def _is_there(worker: Transport) -> bool:
    """Whether a node that has just started has its streams up again."""
    try:
        worker.check()
    except (BrokerFault, BrokerUnreachable):
        return False
    return True


def test_a_new_broker_has_these_users_alone_and_a_changed_password_counts_from_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without_rabbitmq()
    users = tmp_path / "users"
    users.mkdir()

    def write(user: str, password: str) -> None:
        monkeypatch.setenv("FEDMQ_PASSWORD", password)
        assert main(["permissions", user, *USERS[user], "--json"]) == 0
        (users / f"{user}.json").write_text(capsys.readouterr().out)

    for user in USERS:
        write(user, f"{user}-1")
    with RabbitNode(tmp_path / "node", extra_config=f"load_definitions = {users}") as node:
        listed = node.ctl("list_users", "--no-table-headers").splitlines()
        assert sorted(line.split()[0] for line in listed) == sorted(USERS)
        with (
            closing(connect(settings(node, "aggregator", "aggregator-1"), role="aggregator")) as aggregator,
            closing(connect(settings(node, "site", "site-1"), role="worker")) as worker,
        ):
            aggregator.declare()
            aggregator.listen(Source.UPDATES)
            worker.check()
            worker.send(b"update", worker="site-7")
            received = aggregator.receive(SOON_S)
            assert received is not None
            assert received.sender == "site-7"
            with pytest.raises(BrokerRefused):
                worker.send(b"update", worker="hospital-a")
        write("site", "site-2")
        node.restart()
        with closing(connect(settings(node, "site", "site-2"), role="worker")) as worker:
            assert wait_until(lambda: _is_there(worker), timeout_s=SOON_S)
        for user, password in (("site", "site-1"), ("guest", "guest")):
            with (
                closing(connect(settings(node, user, password), role="worker")) as worker,
                pytest.raises(BrokerRefused, match="refuses the user or password"),
            ):
                worker.check()
