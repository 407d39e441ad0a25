"""``fl-keeper``: gives an aggregator the sum of a round's masks, once and for enough sites, until it is stopped."""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Sequence

from broker import Backoff, Transport, connect, look, redacted
from broker.wire import Topology
from console import (
    BrokerUnreachable,
    ExitCode,
    LeadershipLost,
    QueueMissing,
    Terminal,
    configure_logging,
    exit_code_of,
    fan_out,
    private_files,
    read_settings,
)
from console.serving import Health, served
from keeper.config import KeeperConfig
from keeper.events import Serving, StandingBy, Watcher
from keeper.ledger import Ledger
from keeper.service import Keeper
from keeper.settings import KeeperSettings
from keeper.watchers import KeeperMetrics, KeeperView

log = logging.getLogger(__name__)

_PROG = "fl-keeper"
_DESCRIPTION = """\
Holds the seeds of the masks under which workers send their updates, and gives the aggregator the sum of all masks
of a round, once. Run it where whoever runs the aggregator has no say: it needs nothing but the broker."""
_EXAMPLES = """\
  fl-keys new ethics --role keeper                    its keys; send keys/ethics.pub to the admin of the federation
  FEDMQ_BROKER=amqps://ethics:secret@broker:5671/ fl-keeper --roster roster.yaml --roster-key 9f3a-… \\
    --key keys/ethics.key --state /var/lib/fedmq/keeper --min-sites 3
  fl-keeper --config keeper.yaml --dp-noise 5 --dp-epsilon 8 --dp-delta 1e-5
  fl-keeper --config keeper.yaml --check
Killed? The same command goes on, and gives no second sum. Started twice? The second stands by."""

_TRY_TO_LEAD_EVERY_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: _command(argv), prog=_PROG)


def _command(argv: Sequence[str] | None) -> ExitCode:
    settings = read_settings(KeeperSettings, argv, prog=_PROG, description=_DESCRIPTION, examples=_EXAMPLES)
    if settings.check:
        return _check(settings)
    assert settings.credentials is not None
    name = settings.credentials.name()
    view, metrics = KeeperView(name, queue=settings.queue), KeeperMetrics()
    health = Health(hung_after_s=settings.hung_after_s)
    with (
        Terminal(settings, view, prog=_PROG, argv=argv, state=settings.state) as terminal,
        private_files(settings.state),
        served(metrics.registry, settings, health),
        contextlib.closing(Ledger(settings.state)) as ledger,
    ):
        config = _config(settings, name)
        in_health = health.watcher({StandingBy: "stands by", Serving: "answers"})
        on_event = fan_out(view.on_event, metrics.on_event, in_health)
        _Process(settings, config, ledger, terminal, on_event, view, health).run()
    return ExitCode.OK


def _check(settings: KeeperSettings) -> ExitCode:
    configure_logging(settings.log_level, log_format=settings.log_format)
    assert settings.credentials is not None
    name = settings.credentials.name()
    _config(settings, name)
    with contextlib.closing(look(settings, role="check", spent_s=time.process_time())) as transport:
        transport.check()
    print(f"{redacted(settings.broker)} is reachable and has queue '{settings.queue}'; keeper {name} is on the roster")
    return ExitCode.OK


def _config(settings: KeeperSettings, name: str) -> KeeperConfig:
    assert settings.credentials is not None
    return KeeperConfig(
        name=name,
        topology=Topology(settings.queue, keeper=name),
        membership=settings.credentials.membership("keeper", name),
        min_sites=settings.min_sites,
        noise=settings.noise,
        takes_running=settings.takes_running,
        inline_cap=settings.inline_cap,
    )


class _Process:
    """Answers, and stands by while another process of this keeper's name does, until a signal ends it."""

    def __init__(
        self,
        settings: KeeperSettings,
        config: KeeperConfig,
        ledger: Ledger,
        terminal: Terminal,
        on_event: Watcher,
        view: KeeperView,
        health: Health,
    ) -> None:
        self._settings, self._config, self._ledger = settings, config, ledger
        self._terminal, self._on_event, self._view, self._health = terminal, on_event, view, health
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until it is stopped."""
        backoff = Backoff(time.monotonic)
        while not self._stopping.is_set():
            backoff.begin()
            try:
                self._lead()
            except BrokerUnreachable:
                if not self._stopping.is_set():
                    raise
            except LeadershipLost as error:
                if not self._stopping.is_set():
                    log.warning("%s; standing by", error)
            except QueueMissing as error:
                log.error("%s; waiting until the aggregator makes it again", error)
            self._settings = self._settings.model_copy(update={"connect_timeout_s": math.inf})
            self._terminal.on_signals(self._stopping.set)
            self._stopping.wait(backoff.failed_s())

    def _lead(self) -> None:
        """Answers once, for as long as the connection holds."""
        role = f"keeper {self._config.name}"
        on_link = fan_out(self._view.on_link, self._health.on_link)
        transport = connect(self._settings, role=role, topology=self._config.topology, on_link=on_link)

        def stop_waiting() -> None:
            self._stopping.set()
            transport.give_up_waiting()

        self._terminal.on_signals(stop_waiting)
        with contextlib.closing(transport):
            if not self._waits_to_lead(transport):
                return
            keeper = Keeper(self._config, self._ledger, transport, on_event=self._on_event, beat=self._health.beat)

            def stop() -> None:
                self._stopping.set()
                keeper.stop()

            self._terminal.on_signals(stop)
            keeper.start()
            keeper.run()

    def _waits_to_lead(self, transport: Transport) -> bool:
        """True once it is the one; False if it is stopped before."""
        has_waited = False
        while not self._stopping.is_set():
            if transport.lead():
                return True
            if not has_waited:
                log.info("another process is keeper %s; standing by", self._config.name)
                self._on_event(StandingBy())
                has_waited = True
            self._health.beat()
            self._stopping.wait(_TRY_TO_LEAD_EVERY_S)
        return False


if __name__ == "__main__":
    raise SystemExit(main())
