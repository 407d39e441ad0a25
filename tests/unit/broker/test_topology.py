"""The names and arguments of all queues."""

from itertools import product

from broker.topology import BLOB, MODELS, Topology, presence_key, update_key


def test_all_names_begin_with_the_queue() -> None:
    topology = Topology("site.updates")
    names = [
        *topology.queues(),
        *topology.exchanges(),
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
    for exchange, queue, _ in topology.bindings():
        assert exchange in topology.exchanges()
        assert queue in topology.queues()


def test_updates_are_rejected_when_full_dead_lettered_and_taken_by_one_consumer() -> None:
    arguments = Topology("q").queues()["q"]
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


def test_routing_keys_match_the_bindings() -> None:
    patterns = {key.partition(".")[0] for _, _, key in Topology("q").bindings()}
    assert update_key("w").partition(".")[0] in patterns
    assert presence_key("w").partition(".")[0] in patterns
