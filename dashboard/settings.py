"""All that can be set of ``fl-dashboard``."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from broker import OF_SENDERS, BrokerUrl, LinkSettings
from broker.wire import QueueName
from console import ServedSettings
from identities import RosterSettings


class DashboardSettings(LinkSettings, ServedSettings, RosterSettings):
    """One page server."""

    read_past = OF_SENDERS | {"key", "opening_key"}

    state: Path = Field(
        Path("state"),
        description="state directory of a run, or a folder with several of them; the newest is shown first",
    )
    host: str = Field(
        "127.0.0.1",
        description="address to serve at; 0.0.0.0: at all of this machine's, so set a --token, too",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="port to serve at; 0: any free port")
    broker: BrokerUrl | None = Field(
        None,
        description="URL of the run's RabbitMQ, or of the nodes of its cluster with commas between, to show who is"
        " present and what waits; by default only the ledger",
    )
    queue: QueueName = Field("updates", description="name of the run's results queue, with --broker")
