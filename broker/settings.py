"""The settings of the wire: how to behave towards a broker, and which one it is."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, FilePath, SecretStr, TypeAdapter

from broker.wire import MAX_PART_BYTES, QueueName, SharedPatterns
from console import CommandSettings, MetricsSettings


def _checked_url(url: SecretStr) -> SecretStr:
    if not _is_broker_url(url.get_secret_value()):
        raise ValueError("not a broker's URL; expected amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps://…")
    return url


_PATTERNS: TypeAdapter[tuple[str, ...]] = TypeAdapter(SharedPatterns)
BrokerUrl = Annotated[SecretStr, AfterValidator(_checked_url)]


@dataclass(frozen=True, slots=True)
class Shared:
    """Patterns of the names of the tensors that travel; what they mean is in broker/states/selection.py."""

    patterns: tuple[str, ...] = ("*",)

    @classmethod
    def parse(cls, text: str) -> "Shared":
        """Patterns with commas between. Anything else is a ValueError."""
        return cls(_PATTERNS.validate_python(tuple(pattern.strip() for pattern in text.split(","))))

    def __str__(self) -> str:
        return ",".join(self.patterns)


class WireSettings(CommandSettings):
    """How to behave towards a broker, whichever it is."""

    tls_ca: FilePath | None = Field(None, description="PEM file of the authority that signed the broker's certificate")
    tls_cert: FilePath | None = Field(None, description="PEM file of our own certificate, for brokers that ask for one")
    tls_key: FilePath | None = Field(None, description="PEM file of that certificate's key")
    connect_timeout_s: float = Field(
        15.0, ge=0, description="seconds to try to connect for the first time; a lost connection is retried without end"
    )
    heartbeat_s: int = Field(60, ge=2, le=3600, description="seconds between AMQP heartbeats")
    blocked_timeout_s: float = Field(
        300.0, gt=0, description="seconds to wait for a broker short of memory or disk before reconnecting"
    )
    inline_cap: int = Field(
        MAX_PART_BYTES,
        ge=0,
        le=MAX_PART_BYTES,
        description="bytes up to which a model or update travels in one message, and not as a blob; the whole run goes"
        " by its aggregator's value, which each model carries",
    )


class BrokerSettings(WireSettings):
    """Which broker, and which federation on it."""

    broker: BrokerUrl = Field(
        SecretStr("amqp://guest:guest@localhost:5672/"),
        description="URL of RabbitMQ, amqp:// or amqps://, with user and password",
    )
    queue: QueueName = Field("updates", description="name of the results queue; all other names derive from it")


class ServiceSettings(BrokerSettings, MetricsSettings):
    """A command that runs for days over a broker, and is watched."""


def _is_broker_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number; the text would show a part of the password
        return False


def redacted(url: SecretStr | str) -> str:
    """The URL without its password, for logs."""
    parts = urlsplit(url.get_secret_value() if isinstance(url, SecretStr) else url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"
