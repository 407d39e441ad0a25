"""amqps: an authority of one's own, certificates on both sides, and a clear word where trust ends."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Pair
from federation import run_command
from pydantic import SecretStr
from rabbitmq_node import RabbitNode, free_port, skip_without_rabbitmq

from broker.connecting import connect
from broker.settings import BrokerSettings
from broker.transport import Source
from console.errors import BrokerError, BrokerRefused, ExitCode, SettingsError

SOON_S = 20.0


@dataclass(frozen=True)
class Site:
    """A broker that speaks TLS to those who have a certificate, and what it takes to reach it."""

    port: int
    ca: Path
    client: Pair
    stranger_ca: Path
    stranger: Pair

    def settings(self, **changes: Any) -> BrokerSettings:
        """Those of somebody who does everything right, and these instead."""
        fields: dict[str, Any] = {
            "broker": SecretStr(f"amqps://guest:guest@localhost:{self.port}/"),
            "queue": "tls",
            "tls_ca": self.ca,
            "tls_cert": self.client.cert,
            "tls_key": self.client.key,
            "connect_timeout_s": 0.0,
        }
        return BrokerSettings(**(fields | changes))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    skip_without_rabbitmq()
    folder = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    server = ours.issue("broker", "localhost")
    port = free_port()
    config = f"""
        listeners.ssl.1 = 127.0.0.1:{port}
        ssl_options.cacertfile = {ours.cert}
        ssl_options.certfile = {server.cert}
        ssl_options.keyfile = {server.key}
        ssl_options.verify = verify_peer
        ssl_options.fail_if_no_peer_cert = true
        ssl_cert_login_from = common_name
        auth_mechanisms.1 = PLAIN
        auth_mechanisms.2 = EXTERNAL
    """
    lines = "\n".join(line.strip() for line in config.strip().splitlines())
    with RabbitNode(folder / "node", extra_config=lines, plugins=["rabbitmq_auth_mechanism_ssl"]):
        yield Site(port, ours.cert, ours.issue("guest"), theirs.cert, theirs.issue("guest"))


def refusal(settings: BrokerSettings) -> BrokerError:
    """What a transport with these settings gives up with."""
    with closing(connect(settings, role="test")) as transport, pytest.raises(BrokerError) as caught:
        transport.check()
    return caught.value


@pytest.mark.parametrize("user", ["guest:guest@", ""], ids=["by password", "by certificate alone"])
def test_model_update_and_blob_travel_over_tls(site: Site, user: str) -> None:
    settings = site.settings(broker=SecretStr(f"amqps://{user}localhost:{site.port}/"))
    with (
        closing(connect(settings, role="aggregator")) as aggregator,
        closing(connect(settings, role="worker")) as worker,
    ):
        aggregator.declare()
        aggregator.listen(Source.UPDATES)
        aggregator.broadcast(b"model")
        worker.listen(Source.MODELS)
        received = worker.receive(SOON_S)
        assert received is not None
        assert received.body == b"model"
        worker.write_blob("tls.blob.x", [b"a" * 100_000, b"b"])
        worker.send(b"update", worker="site-a")
        update = aggregator.receive(SOON_S)
        assert update is not None
        assert (bytes(update.body), update.sender) == (b"update", "site-a")
        assert [bytes(part) for part in aggregator.read_blob("tls.blob.x", 2)] == [b"a" * 100_000, b"b"]
        aggregator.ack([update])
        aggregator.delete_blobs(["tls.blob.x"])


def test_a_broker_of_an_unknown_authority_is_not_trusted(site: Site) -> None:
    error = refusal(site.settings(tls_ca=site.stranger_ca))
    assert isinstance(error, BrokerRefused)
    assert f"amqps://guest@localhost:{site.port}/: its certificate cannot be trusted (" in str(error)
    assert str(error).endswith("; see --tls-ca")


def test_a_broker_under_another_name_than_its_certificates_is_not_trusted(site: Site) -> None:
    error = refusal(site.settings(broker=SecretStr(f"amqps://guest:guest@127.0.0.1:{site.port}/")))
    assert isinstance(error, BrokerRefused)
    assert "127.0.0.1" in str(error)


def test_a_worker_without_a_certificate_is_told_that_the_broker_wants_one(site: Site) -> None:
    error = refusal(site.settings(tls_cert=None, tls_key=None))
    assert "--tls-cert" in str(error)


def test_a_worker_with_a_certificate_that_the_broker_does_not_know_is_told_so(site: Site) -> None:
    error = refusal(site.settings(tls_cert=site.stranger.cert, tls_key=site.stranger.key))
    assert "--tls-cert" in str(error)


def test_a_key_of_another_certificate_is_a_problem_of_settings(site: Site) -> None:
    refused = pytest.raises(SettingsError, match="--tls-ca, --tls-cert or --tls-key cannot be read as PEM")
    with closing(connect(site.settings(tls_key=site.stranger.key), role="test")) as transport, refused:
        transport.check()


def test_a_command_says_in_one_line_that_it_does_not_trust_the_broker(site: Site, tmp_path: Path) -> None:
    flags = ("--check", "--tls-ca", str(site.stranger_ca), "--connect-timeout-s", "0")
    env = {"FEDMQ_BROKER": f"amqps://guest:guest@localhost:{site.port}/"}
    done = run_command("worker.cli", *flags, folder=tmp_path, env=env)
    assert done.returncode == ExitCode.REFUSED
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fl-worker: amqps://guest@localhost:")
    assert "its certificate cannot be trusted" in done.stderr
