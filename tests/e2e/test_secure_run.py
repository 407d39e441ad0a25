"""Secure aggregation as people run it: four kinds of process, keys by fl-keys, and a keeper that is away at first."""

import urllib.request
from pathlib import Path

import pytest
from federation import ATTENTIVE, SOON_S, Command, Federation, run_command
from rabbitmq_node import free_port, wait_until

from console.errors import ExitCode

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(600)

SITES = ("hospital-a", "hospital-b", "hospital-c")
RUN = ("--rounds", "3", "--quorum", "3", "--deadline-s", "none", "--privacy", "secure", "--keeper", "ethics")


class Members:
    """Everybody's keys, made as docs/privacy.md says, and the processes that have them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys("new", "admin", "--role", "admin")
        self._keys("new", "aggregator", "--role", "aggregator")
        self._keys("new", "ethics", "--role", "keeper")
        self._keys("new", "sums", "--role", "partial")
        for site in SITES:
            self._keys("new", site)
        everybody = ("aggregator", "ethics", "sums", *SITES)
        self._keys("roster", "--federation", "heart", "--min-sites", "3", *(f"keys/{name}.pub" for name in everybody))

    def _keys(self, *words: str) -> None:
        done = run_command("operations.keys_cli", *words, folder=self._folder)
        assert done.returncode == ExitCode.OK, done.stderr

    def of(self, name: str) -> tuple[str, ...]:
        known = (
            "--roster",
            str(self._folder / "roster.yaml"),
            "--roster-key",
            str(self._folder / "keys" / "admin.pub"),
        )
        return (*known, "--key", str(self._folder / "keys" / f"{name}.key"))

    def keeper(self, federation: Federation, *flags: str) -> Command:
        own = (*self.of("ethics"), "--state", str(self._folder / "ethics"))
        return federation.keeper(*own, "--min-sites", "3", *flags)

    def sites(self, federation: Federation) -> list[Command]:
        policy = ("--require", "signed,secure", "--min-sites", "3")
        return [federation.worker(name, *self.of(name), *policy, task=ATTENTIVE) for name in SITES]


def test_a_run_waits_for_its_keeper_through_kills_and_loses_no_update(federation: Federation, tmp_path: Path) -> None:
    members = Members(tmp_path)
    aggregator = federation.aggregator(*RUN, *members.of("aggregator"))
    workers = members.sites(federation)
    aggregator.says("waits for its masks: keeper ethics")  # nobody is there yet who would give them
    aggregator.kill()
    again = federation.aggregator(*RUN, *members.of("aggregator"))
    again.says("waits for its masks: keeper ethics")
    keeper = members.keeper(federation)
    keeper.says("3 masks of 3 sites")
    keeper.kill()
    port = free_port()
    keeper = members.keeper(federation, "--metrics-port", str(port))
    probed = f"http://127.0.0.1:{port}"
    assert wait_until(lambda: _answer(f"{probed}/readyz") == "answers", timeout_s=SOON_S), keeper.tail
    assert _answer(f"{probed}/healthz") == "alive"
    assert again.ends() == ExitCode.OK, again.tail
    assert [worker.ends() for worker in workers] == [ExitCode.OK] * len(SITES)
    keeper.terminate()
    assert keeper.ends() == ExitCode.OK, keeper.tail
    rounds = federation.rows("SELECT closed_by, num_folded FROM rounds WHERE closed_by IS NOT NULL")
    assert rounds == [("quorum", 3)] * 3
    assert federation.rows("SELECT DISTINCT num_samples, train_s, train_metrics FROM updates") == [(None, None, "{}")]
    assert federation.summary["final"]["model_sha256"]


def _answer(url: str) -> str:
    """What a probe is told, if that is good; else nothing."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode().strip())
    except OSError:  # nobody there yet, or 503
        return ""


def test_a_partial_aggregator_sums_masked_updates_and_is_killed_without_losing_one(
    federation: Federation, tmp_path: Path
) -> None:
    members = Members(tmp_path)
    keeper = members.keeper(federation)
    own = (*members.of("sums"), "--opening-key", str(tmp_path / "keys" / "aggregator.opening.key"))
    partial = federation.partial(0, 1, *own, "--flush-s", "3600")
    partial.says("partial aggregator of shard")
    flags = (*RUN, "--shards", "1", "--inline-cap", "0")
    aggregator = federation.aggregator(*flags, *members.of("aggregator"))
    workers = members.sites(federation)
    # summed up, and not sent, since nobody knows that there are no more
    partial.says("says nothing of its site", times=len(SITES))
    partial.kill()
    partial = federation.partial(0, 1, *own, "--flush-s", "1")
    assert aggregator.ends() == ExitCode.OK, aggregator.tail
    assert [each.ends() for each in (partial, *workers)] == [ExitCode.OK] * (1 + len(SITES))
    assert (
        federation.rows("SELECT closed_by, num_folded FROM rounds WHERE closed_by IS NOT NULL") == [("quorum", 3)] * 3
    )
    assert "shard 0" in aggregator.said
    keeper.terminate()


def test_a_site_answers_no_run_that_protects_it_less_than_it_asks(federation: Federation, tmp_path: Path) -> None:
    members = Members(tmp_path)
    plain = ("--rounds", "1", "--quorum", "1", "--deadline-s", "none")
    aggregator = federation.aggregator(*plain, *members.of("aggregator"))
    worker = members.sites(federation)[0]
    worker.says("is not answered")
    assert wait_until(lambda: "hospital-a" in aggregator.said and "--require" in aggregator.said, timeout_s=SOON_S)
    assert federation.rows("SELECT * FROM updates") == []
