"""The ground floor: how a command meets its user. Settings, log lines, terminal, exit codes; nothing federated."""

from console import errors, malloc
from console.command import configure_logging, exit_code_of
from console.errors import (
    BlobLost,
    BrokerError,
    BrokerFault,
    BrokerRefused,
    BrokerUnreachable,
    DamagedFile,
    ExitCode,
    FedmqError,
    ForgedMessage,
    IdentityError,
    LeadershipLost,
    MalformedMessage,
    MessageError,
    QueueFull,
    QueueMissing,
    SettingsError,
    StateError,
    TaskError,
    UnfitMessage,
)
from console.heartbeat import Heartbeat
from console.live_rows import Flow, Links, Rows, duration, name_of
from console.log_lines import IS_SHOWN
from console.printable import printable
from console.private import private_files
from console.settings import (
    ENV_PREFIX,
    AsText,
    CommandSettings,
    MetricsSettings,
    NetworkSettings,
    NoneAsText,
    ServedSettings,
    environment_of,
    explained,
    read_settings,
    settings_of,
)
from console.terminal import Terminal
from console.trend import Trend
from console.watching import LinkChanged, Progress, Transferring, fan_out, with_progress

__all__ = [
    "ENV_PREFIX",
    "IS_SHOWN",
    "AsText",
    "BlobLost",
    "BrokerError",
    "BrokerFault",
    "BrokerRefused",
    "BrokerUnreachable",
    "CommandSettings",
    "DamagedFile",
    "ExitCode",
    "FedmqError",
    "Flow",
    "ForgedMessage",
    "Heartbeat",
    "IdentityError",
    "LeadershipLost",
    "LinkChanged",
    "Links",
    "MalformedMessage",
    "MessageError",
    "MetricsSettings",
    "NetworkSettings",
    "NoneAsText",
    "Progress",
    "QueueFull",
    "QueueMissing",
    "Rows",
    "ServedSettings",
    "SettingsError",
    "StateError",
    "TaskError",
    "Terminal",
    "Transferring",
    "Trend",
    "UnfitMessage",
    "configure_logging",
    "duration",
    "environment_of",
    "errors",
    "exit_code_of",
    "explained",
    "fan_out",
    "malloc",
    "name_of",
    "printable",
    "private_files",
    "read_settings",
    "settings_of",
    "with_progress",
]
