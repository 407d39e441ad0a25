"""The settings of the wire: how to behave towards a broker, and which one it is."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, TypeAdapter

from broker.addresses import BrokerUrl
from broker.wire import MAX_PART_BYTES, QueueName, SharedPatterns
from console import CommandSettings, MetricsSettings, NetworkSettings, ProgressSettings

_PATTERNS: TypeAdapter[tuple[str, ...]] = TypeAdapter(SharedPatterns)


@dataclass(frozen=True, slots=True)
class Shared:
    """Patterns of the names of the tensors that travel; what they mean is in broker/modules/selection.py."""

    patterns: tuple[str, ...] = ("*",)

    @classmethod
    def parse(cls, text: str) -> "Shared":
        """Patterns with commas between. Anything else is a ValueError."""
        return cls(_PATTERNS.validate_python(tuple(pattern.strip() for pattern in text.split(","))))

    def __str__(self) -> str:
        return ",".join(self.patterns)


class LinkSettings(NetworkSettings):
    """How to behave towards a broker, whichever it is."""

    tls_ca: FilePath | None = Field(None, description="PEM file of the authority that signed the broker's certificate")
    tls_cert: FilePath | None = Field(None, description="PEM file of our own certificate, for brokers that ask for one")
    tls_key: FilePath | None = Field(None, description="PEM file of that certificate's key")
    connect_timeout_s: float = Field(
        15.0,
        ge=0,
        description="seconds to try to connect for the first time, of all nodes together; a lost connection is retried"
        " without end. Commands that look and end try for 7 unless they are told otherwise",
    )
    heartbeat_s: int = Field(60, ge=2, le=3600, description="seconds between AMQP heartbeats")
    blocked_timeout_s: float = Field(
        300.0, gt=0, description="seconds to wait for a broker short of memory or disk before reconnecting"
    )


class WireSettings(LinkSettings, ProgressSettings):
    """The same for a command that sends models or updates, or has others send them."""

    inline_cap: int = Field(
        MAX_PART_BYTES,
        ge=0,
        le=MAX_PART_BYTES,
        description="bytes up to which a model or update travels in one message, and not as a blob; the whole run goes"
        " by its aggregator's value, which each model carries",
    )


class BrokerSettings(LinkSettings):
    """Which broker, and which federation on it."""

    broker: BrokerUrl = Field(
        SecretStr("amqp://guest:guest@localhost:5672/"),
        description="URL of RabbitMQ, amqp:// or amqps://, with user and password; of a cluster those of all its nodes,"
        " with commas between, or a file with one a line",
    )
    queue: QueueName = Field("updates", description="name of the results queue; all other names derive from it")


class ServiceSettings(BrokerSettings, WireSettings, MetricsSettings):
    """A command that runs for days over a broker, and is watched."""


OF_SENDERS = CommandSettings.read_past | set(WireSettings.__annotations__)
"""What a file common to several commands may have, and those that only look read past."""

_SOON_S = 7.0


def soon(settings: BrokerSettings, *, spent_s: float = 0.0) -> BrokerSettings:
    """The same for a command that looks and ends: somebody waits for it, for ``spent_s`` already.

    A time that was given holds.
    """
    if "connect_timeout_s" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"connect_timeout_s": _SOON_S - min(spent_s, _SOON_S / 2)})


def is_in_clear(url: str) -> bool:
    """Whether passwords and models leave this machine without TLS on their way to the broker."""
    parts = urlsplit(url)
    return parts.scheme == "amqp" and not _is_this_machine(parts.hostname or "")


def _is_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        own = socket.gethostname().lower()
        return host == "localhost" or host.endswith(".localhost") or host in (own, own.partition(".")[0])
    return address.is_loopback or address.is_unspecified
