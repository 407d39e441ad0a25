"""The keepers of a simulated run, in the process of its aggregator: what they answer they decide as anywhere else."""

import contextlib

from aggregator import AggregatorSettings
from broker import MemoryBroker, MemoryTransport
from broker.wire import Topology
from keeper import Keeper, KeeperConfig, Ledger, Noise
from simulation.secrecy.members import Secrecy


def opened_keepers(
    secrecy: Secrecy | None, settings: AggregatorSettings, broker: MemoryBroker, stack: contextlib.ExitStack
) -> list[Keeper]:
    """The run's keepers, which have their turns between those of the workers; none if it has none."""
    if secrecy is None:
        return []
    return [_opened(name, secrecy, settings, broker, stack) for name in secrecy.keepers]


def _opened(
    name: str, secrecy: Secrecy, settings: AggregatorSettings, broker: MemoryBroker, stack: contextlib.ExitStack
) -> Keeper:
    ledger = stack.enter_context(contextlib.closing(ledger_of_keeper(name, settings)))
    transport = MemoryTransport(broker, keeper=name, queue=settings.queue)
    return stack.enter_context(contextlib.closing(Keeper(config_of_keeper(name, secrecy, settings), ledger, transport)))


def config_of_keeper(name: str, secrecy: Secrecy, settings: AggregatorSettings) -> KeeperConfig:
    """What the keeper of this name is told in a run with these settings."""
    return KeeperConfig(
        name=name,
        topology=Topology(settings.queue, keeper=name),
        membership=secrecy.members.membership(name),
        min_sites=settings.min_sites,
        noise=_noise_of(settings),
        inline_cap=settings.inline_cap,
    )


def ledger_of_keeper(name: str, settings: AggregatorSettings) -> Ledger:
    """Its ledger, below the run's directory."""
    return Ledger(settings.state / f"keeper-{name}")


def _noise_of(settings: AggregatorSettings) -> Noise | None:
    """What a keeper adds, where it is the keepers who do."""
    noising = settings.noising
    if noising is None or noising.where != "keeper":
        return None
    budget = noising.budget
    return Noise(budget.noise, budget.epsilon, budget.delta, budget.spent_mu2)
