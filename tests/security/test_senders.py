"""Attacks on fairness by somebody who may send: the honest run ends as if nobody had, and what is left is bounded."""

import secrets
from collections.abc import Callable

import pytest
from federation import SOON_S, Federation
from rabbitmq_node import wait_until

from broker.rabbitmq.properties import fleeting
from broker.transport import BEGINNING_BYTES
from broker.wire.codec import encode
from broker.wire.messages import MAX_NUM_SAMPLES, Folded, PartialHead, Presence
from broker.wire.topology import partial_key, presence_key, shard_of, update_key

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)

NAMES = ("worker-0", "worker-1")
ROUNDS = 4
MOST_OF_ONE, MOST_OF_STRANGERS = 20, 100
MOST_REFUSED = 5000


class Held:
    """A run of two honest workers in which the second one's second round waits until the attack is on its way."""

    def __init__(self, federation: Federation, *flags: str) -> None:
        self._federation = federation
        federation.gates.hold("worker-1", 2)
        self.aggregator = federation.aggregator("--rounds", str(ROUNDS), *flags)
        self._workers = [federation.worker(name) for name in NAMES]
        self.aggregator.says("round   2 ← worker-0")

    def publish(self, *messages: tuple[str, bytes], are_confirmed: bool = False) -> None:
        """(routing key, body) of each; as a flood, which nothing confirms, the broker may lose some of them."""
        with self._federation.channel() as channel:
            attackers = channel.connection.channel()
            if are_confirmed:
                attackers.confirm_delivery()
            for key, body in messages:
                attackers.basic_publish(self._federation.topology.inbound, key, body, fleeting())
            attackers.close()

    def goes_on(self) -> None:
        """Lets the honest workers finish; all end as they should."""
        self._federation.gates.release("worker-1", 2)
        assert [self.aggregator.ends(), *(worker.ends() for worker in self._workers)] == [0, 0, 0]

    @property
    def num_refused_rows(self) -> int:
        ((number,),) = self._federation.rows("SELECT count(*) FROM updates WHERE verdict = 'refused'")
        return int(number)

    @property
    def num_refused(self) -> int:
        return sum(row["refused"] for row in self._federation.summary["rounds"])

    def dead_letters(self) -> list[bytes]:
        letters = []
        with self._federation.channel() as channel:
            while (got := channel.basic_get(self._federation.topology.dead))[0] is not None:
                letters.append(got[2])
        return letters

    def has_ended_with(self, sha256: str) -> None:
        assert self._federation.summary["final"]["model_sha256"] == sha256
        assert "Traceback" not in self.aggregator.said


def test_a_flood_of_one_sender_is_bounded_and_changes_nothing(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    run = Held(federation, "--quorum", "2")
    run.publish(*[(update_key("mallory"), b"garbage")] * MOST_REFUSED)
    run.aggregator.says("dropping its others unread until the next round")
    run.goes_on()
    run.has_ended_with(undisturbed_sha256(*NAMES, rounds=ROUNDS))
    assert len(run.dead_letters()) <= ROUNDS * MOST_OF_ONE
    assert run.num_refused_rows <= ROUNDS * (MOST_OF_ONE + 1)
    assert MOST_REFUSED * 0.9 <= run.num_refused <= MOST_REFUSED
    assert run.aggregator.said.count("mallory") <= ROUNDS * (MOST_OF_ONE + 1)


def test_a_flood_under_invented_names_is_bounded_and_changes_nothing(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    run = Held(federation, "--quorum", "2")
    run.publish(*((update_key(f"invented-{index}"), b"garbage") for index in range(MOST_REFUSED)))
    run.aggregator.says("are only counted until the next round")
    run.goes_on()
    run.has_ended_with(undisturbed_sha256(*NAMES, rounds=ROUNDS))
    assert len(run.dead_letters()) <= ROUNDS * MOST_OF_STRANGERS
    assert run.num_refused_rows <= ROUNDS * (MOST_OF_STRANGERS + 1)
    assert MOST_REFUSED * 0.9 <= run.num_refused <= MOST_REFUSED


def test_of_bodies_of_15_mb_only_the_beginning_is_kept(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    run = Held(federation, "--quorum", "2")
    run.publish(*[(update_key("mallory"), bytes(15_000_000))] * 8, are_confirmed=True)
    assert wait_until(lambda: run.aggregator.said.count("none of this run's updates") >= 8, timeout_s=SOON_S)
    run.goes_on()
    run.has_ended_with(undisturbed_sha256(*NAMES, rounds=ROUNDS))
    lengths = [len(body) for body in run.dead_letters()]  # one that came twice, over a new connection, is there twice
    assert set(lengths) == {BEGINNING_BYTES}
    assert len(lengths) >= 8


def test_signs_of_life_under_invented_names_hold_up_no_round_beyond_one_deadline(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    """Without the limit each round would last until its deadline: longer than this test may take."""
    run = Held(federation, "--quorum", "100%", "--min-updates", "2", "--deadline-s", "20")
    for name in (f"invented-{index}" for index in range(500)):
        presence = Presence(worker=name, instance=secrets.token_hex(8), state="idle")
        run.publish((presence_key(name), encode(presence)))
    run.goes_on()
    run.has_ended_with(undisturbed_sha256(*NAMES, rounds=ROUNDS))
    assert sum(row["closed_by"] == "deadline" for row in federation.summary["rounds"]) <= 2


def test_a_forged_partial_sum_counts_for_nothing_in_a_run_without_shards(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    """Nothing leads a partial sum there unless somebody names the queue itself."""
    run = Held(federation, "--quorum", "2")
    model = federation.wait_for_head(2)
    invented = next(name for name in (f"site-{index}" for index in range(99)) if shard_of(name, 1) == 0)
    updates = tuple(
        Folded(worker=name, instance="0" * 16, num_samples=MAX_NUM_SAMPLES, num_bytes=1, train_s=0, sent_at=0)
        for name in ("worker-1", invented)
    )
    head = PartialHead(
        tensors=model.tensors,
        sha256="0" * 64,
        run_id=model.run_id,
        round=2,
        shard=0,
        num_shards=1,
        sequence=0,
        bound=1.0,
        updates=updates,
    )
    with federation.channel() as channel:
        properties = fleeting()
        properties.headers = {"CC": [federation.topology.updates]}
        channel.basic_publish("", partial_key(0), encode(head, bytes(head.num_bytes)), properties)
    run.aggregator.says("but this run has no shards")
    run.goes_on()
    run.has_ended_with(undisturbed_sha256(*NAMES, rounds=ROUNDS))


def test_who_is_not_allowed_counts_neither_in_the_mean_nor_for_the_quorum(
    federation: Federation, undisturbed_sha256: Callable[..., str]
) -> None:
    allowed = federation.folder / "allowed.txt"
    allowed.write_text("worker-*\n")
    run = Held(federation, "--quorum", "100%", "--min-updates", "2", "--workers-allowed", str(allowed))
    stranger = federation.worker("stranger")
    run.aggregator.says("worker 'stranger' is not among those that may count")
    run.goes_on()
    assert stranger.ends() == 0
    run.has_ended_with(undisturbed_sha256(*NAMES, rounds=ROUNDS))
