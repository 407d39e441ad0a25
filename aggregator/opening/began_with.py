"""What a run began with, as its ledger records it, and has to go on with."""

import logging
from typing import Any

from aggregator.config import AggregatorConfig
from aggregator.state import InitialModel, Ledger, StateDirectory
from broker.wire import Masking
from console import StateError

log = logging.getLogger(__name__)

BEFORE: dict[str, Any] = {
    "compression": "none",
    "zstd": 0,
    "shared": "*",
    "server_optimizer": "fedavg",
    "robust": "none",
    "correction": "none",
    "downlink": "none",
    "privacy": "none",
    "noise": "none",
}
"""What a run has whose ledger does not say."""


def encoding_facts(config: AggregatorConfig) -> dict[str, Any]:
    """The settings that decide how a run's models and updates look, and by what rule; they cannot change under way."""
    compression, shared = config.compression, ",".join(config.shared)
    return {
        "compression": compression.text,
        "zstd": compression.zstd,
        "shared": shared,
        "robust": config.robust,
        "downlink": config.downlink,
        "privacy": masking_text(config.masking),
        "noise": "none" if config.noising is None else config.noising.where,
    }


def masking_text(masking: Masking | None) -> str:
    return "none" if masking is None else f"secure, ring{masking.bits}"


def check_is_ours(config: AggregatorConfig, facts: dict[str, Any], directory: StateDirectory) -> None:
    """A StateError if the directory holds another run, or one that began with other settings."""
    facts = BEFORE | facts
    wanted = {"run": config.run, "queue": config.topology.queue, "task": config.task, "seed": config.seed}
    wanted |= {"correction": str(config.correction)}
    if not config.resets_step:
        wanted["server_optimizer"] = config.optimizer
    for name, value in (wanted | encoding_facts(config)).items():
        if facts[name] != value:
            raise StateError(
                f"{directory.folder} holds run '{facts['run']}' with --{name.replace('_', '-')} {facts[name]},"
                f" not {value}; give another --state, or the settings it began with{_or_reset(name)}"
            )
    if config.statistics and config.statistics != statistics_in(facts):
        raise StateError(
            f"{directory.folder} holds run '{facts['run']}', which began with other --statistics or with none; leave"
            " them out, and it goes on as it began, or begin another run with another --state and --run"
        )


def _or_reset(name: str) -> str:
    if name != "server_optimizer":
        return ""
    return ", or --server-state reset, and the other one begins with the open round"


def check_began_from(config: AggregatorConfig, facts: dict[str, Any], directory: StateDirectory) -> None:
    """A StateError if ``--init`` names another file than that which the run in the directory began with."""
    began_from = facts.get("init_sha256")
    if config.init is None or (began_from is None and facts.get("is_taken_over")):  # then only its beginner knows
        return
    if began_from is None:
        raise StateError(
            f"{directory.folder} holds run '{facts['run']}', which goes on from its own model and did not begin with a"
            f" file; leave out --init {config.init}, or begin another run with another --state and --run"
        )
    if not config.init.exists():
        log.info("--init %s is not there any more; the run goes on from its own model", config.init)
        return
    sha256 = InitialModel(config.init).sha256()
    if sha256 != began_from:
        raise StateError(
            f"{directory.folder} holds run '{facts['run']}', which began with another --init: SHA-256"
            f" {began_from[:12]}…, and that of {config.init} is {sha256[:12]}…; leave --init out, and the run goes on"
            " from its own model, or begin another run with another --state and --run"
        )


def statistics_in(facts: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values) for name, values in facts.get("statistics", {}).items()}


def remembers_from(ledger: Ledger) -> int:
    """The round with which the server's optimizer began to remember."""
    return int(ledger.facts().get("optimizer_begins_with", 0))
