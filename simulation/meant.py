"""What a simulation does only if it is meant: to run over RabbitMQ, and to start more processes than are usual."""

import sys
from collections.abc import Callable, Sequence

from console import SettingsError
from simulation.settings import SimulationSettings

MOST_PROCESSES = 32
"""Started without a question; each has a PyTorch of its own."""


def only_if_meant(settings: SimulationSettings, argv: Sequence[str] | None) -> SimulationSettings:
    """Without its broker, unless it is meant: ``FEDMQ_BROKER`` and a common file are there for other commands."""
    arguments = sys.argv[1:] if argv is None else argv
    is_flag = any(argument == "--broker" or argument.startswith("--broker=") for argument in arguments)
    if settings.over_rabbitmq and settings.broker is None:
        raise SettingsError("--over-rabbitmq needs a broker: set FEDMQ_BROKER, or `broker` in the file of --config")
    if is_flag or settings.over_rabbitmq:
        return settings
    if settings.script is not None:
        raise SettingsError(
            "--script needs --broker as a flag, or --over-rabbitmq: each worker of a script is a process of its own"
        )
    return settings.model_copy(update={"broker": None})


def check_number(num_processes: int, *, is_meant: bool, ask: Callable[[str], str] | None) -> None:
    """SettingsError if so many processes are not meant. ``ask`` puts a question to a person; None: nobody is there."""
    if num_processes <= MOST_PROCESSES or is_meant:
        return
    many = f"{num_processes:,} processes on this machine, each with about 200 MB of its own"
    if ask is None:
        raise SettingsError(f"{many}: --many says that this is meant; fewer --workers or --jobs need less")
    if ask(f"{many}. Start them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SettingsError("nothing was started")
