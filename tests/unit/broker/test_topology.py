"""The names and arguments of all queues."""

from collections import Counter
from itertools import product

from broker.rabbitmq.queues import BLOB, MODELS, bindings, exchanges, queues
from broker.wire.topology import (
    Topology,
    is_name_of,
    names_of,
    partial_key,
    presence_key,
    sender_of,
    shard_in,
    shard_of,
    update_key,
)


def test_all_names_begin_with_the_queue() -> None:
    topology = Topology("site.updates")
    names = [
        *queues(topology),
        *exchanges(topology),
        topology.model_blob("r.1", 2),
        topology.update_blob("w", "r", 3),
    ]
    assert all(name.startswith("site.updates") for name in names)
    assert len(set(names)) == len(names)


def test_the_results_queue_and_its_dead_letters_have_the_names_that_others_script_against() -> None:
    assert Topology("updates").updates == "updates"
    assert Topology("updates").dead == "updates.dead"


def test_every_binding_joins_a_declared_exchange_to_a_declared_queue() -> None:
    topology = Topology("q")
    for exchange, queue, _ in bindings(topology):
        assert exchange in exchanges(topology)
        assert queue in queues(topology)


def test_updates_are_rejected_when_full_dead_lettered_and_taken_by_one_consumer() -> None:
    arguments = queues(Topology("q"))["q"]
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-overflow"] == "reject-publish"
    assert arguments["x-single-active-consumer"] is True
    assert arguments["x-dead-letter-exchange"] == "q.dlx"
    assert arguments["x-delivery-limit"] > 0


def test_models_and_blobs_are_bounded_streams() -> None:
    assert MODELS["x-queue-type"] == BLOB["x-queue-type"] == "stream"
    assert "x-max-length-bytes" in MODELS
    assert "x-max-age" in BLOB


def test_blobs_of_other_workers_runs_and_rounds_have_other_names() -> None:
    topology = Topology("q")
    names = {topology.update_blob(*parts) for parts in product(("a", "b"), ("r.1", "r.2"), (1, 2, 12))}
    assert len(names) == 12
    assert topology.update_blob("a", "r", 1) == topology.update_blob("a", "r", 1)


def test_the_key_of_a_blob_is_its_name_without_the_queues() -> None:
    topology = Topology("site.updates")
    names = [topology.update_blob("a", "r.1", 3), topology.model_blob("r.1", 3), topology.partial_blob(2, "r.1", 3, 0)]
    keys = ["blob.update.a.r.1.3", "blob.model.r.1.3", "blob.partial.2.r.1.3.0"]
    assert [topology.blob_key(name) for name in names] == keys
    assert topology.blob_key(names_of(names[0])[1]) == "blob.update.a.r.1.3.1"


def test_no_queue_but_its_own_takes_what_has_the_key_of_a_blob() -> None:
    kinds = {key.partition(".")[0] for exchange, _, key in bindings(Topology("q", num_shards=2)) if exchange == "q.in"}
    assert kinds == {"update", "command", "partial"}


def test_routing_keys_match_the_bindings() -> None:
    patterns = {key.partition(".")[0] for _, _, key in bindings(Topology("q"))}
    assert update_key("w").partition(".")[0] in patterns


def test_with_shards_every_binding_joins_what_is_declared_and_a_shards_queue_is_like_the_results_queue() -> None:
    topology = Topology("q", num_shards=3)
    for exchange, queue, _ in bindings(topology):
        assert exchange in exchanges(topology)
        assert queue in queues(topology)
    assert queues(topology)["q.shard.2"] == queues(Topology("q"))["q"]
    assert (topology.inbound, "q.shard.2", "update.2.*") in bindings(topology)


def test_a_partial_aggregator_has_a_queue_and_a_lead_of_its_own_and_the_roots_models_and_dead_letters() -> None:
    root, partial = Topology("q", num_shards=3), Topology("q", shard=2)
    assert (partial.updates, partial.leader) == ("q.shard.2", "q.shard.2.leader")
    assert (partial.models, partial.dead, partial.inbound) == (root.models, root.dead, root.inbound)
    assert root.update_queues == ("q", "q.shard.0", "q.shard.1", "q.shard.2")
    assert partial.update_queues == ("q.shard.2",)


def test_without_shards_nothing_of_shards_is_declared() -> None:
    topology = Topology("q")
    assert not [name for name in queues(topology) if "shard" in name]
    assert [key for _, _, key in bindings(topology)] == ["update.*", "command.run", ""]


def test_all_keys_that_a_worker_may_use_have_it_as_their_sender() -> None:
    topology = Topology("q")
    blob = topology.blob_key(topology.update_blob("site-a", "demo.0a1b2c3d", 3))
    assert {sender_of(key) for key in (update_key("site-a"), presence_key("site-a"), blob)} == {"site-a"}
    others = ["blob.model.demo.1", "blob.partial.0.demo.1.0", "blob.update.site-a", "set-aside", "partial.0", "#", ""]
    assert [sender_of(key) for key in others] == others


def test_the_sender_is_read_from_the_key_with_and_without_shards() -> None:
    assert sender_of(update_key("site-a")) == sender_of(update_key("site-a", 7)) == "site-a"
    assert sender_of(update_key("7")) == sender_of(update_key("7", 7)) == "7"
    assert [shard_in(sender_of(partial_key(shard))) for shard in (0, 12)] == [0, 12]
    assert [shard_in(sender) for sender in ("site-a", "partial", "partial.", "partial.x", "partial.1.2", "0")] == [
        None
    ] * 6


def test_workers_spread_over_shards_and_a_worker_stays_in_its_own() -> None:
    found = Counter(shard_of(f"site-{number}", 4) for number in range(1000))
    assert set(found) == {0, 1, 2, 3}
    assert min(found.values()) > 150
    assert {shard_of(f"worker-{number}", 2) for number in range(4)} == {0, 1}
    assert shard_of("hospital-a", 1000) == 424  # on every machine


def test_blobs_of_partial_sums_have_names_of_their_own() -> None:
    names = {Topology("q").partial_blob(*parts) for parts in product((0, 1), ("r.1", "r.2"), (1, 12), (0, 2))}
    assert len(names) == 16


def test_a_blob_has_ten_names_its_own_first_and_no_others() -> None:
    blob = Topology("q").update_blob("a", "r.00112233", 1)
    names = names_of(blob)
    assert names == (blob, *(f"{blob}.{number}" for number in range(1, 10)))
    assert all(is_name_of(name, blob) for name in names)
    for other in ("", ".0", ".10", ".1.1", "1", ".", ".01", "-1"):
        assert not is_name_of(f"{blob}{other}" if other else "q", blob)


def test_no_two_blobs_of_a_run_share_a_name() -> None:
    topology = Topology("q")
    rounds = range(1, 30)
    blobs = [topology.model_blob("r.00112233", number) for number in rounds]
    blobs += [topology.update_blob(worker, "r.00112233", number) for worker in ("a", "1") for number in rounds]
    blobs += [topology.partial_blob(shard, "r.00112233", number, 1) for shard in (0, 1) for number in rounds]
    names = [name for blob in blobs for name in names_of(blob)]
    assert len(set(names)) == len(names)
