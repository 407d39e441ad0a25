"""Sums of masked updates from partial aggregators: the same bits as without, and none that no keeper could unmask."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.aggregator.embedded_run import state_of
from unit.aggregator.sharded_run import ShardedRun, delta_of, names_of, workers_in
from unit.masking.masked_run import MaskedRun

from broker.states.tensors import State
from broker.wire import PartialHead, decode, encode

INITIAL = state_of(w=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), b=torch.tensor([0.5]))
SITES = (*names_of(0, 3), *names_of(1, 2))
PARTIALS = ("sums-0", "sums-1")
Change = Callable[[PartialHead, "MaskedShards"], PartialHead]


class MaskedShards:
    """A masked run of two shards: sites and keeper are played by the test, and the partial aggregators are real."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        fields = {"quorum": str(len(SITES)), "shards": 2} | changes
        self.masked = MaskedRun.make(folder, INITIAL, sites=SITES, partials=PARTIALS, **fields)
        self.sharded = ShardedRun(self.masked.run, [])
        self.sharded.partials = [self.partial(shard) for shard in range(2)]
        self.sharded.start()

    def partial(self, shard: int) -> Any:
        return self.sharded.partial(shard, membership=self.masked.federation.membership(PARTIALS[shard]))

    def send_all(self) -> None:
        for index, worker in enumerate(SITES):
            self.sharded.send_bytes(worker, self.masked.update(worker, of(worker), weight=1.0 + index))

    def close_round(self) -> None:
        self.sharded.pass_time(10.0)
        self.masked.answer_all()
        self.sharded.settle()


def of(worker: str) -> State:
    delta = delta_of(worker, 1)
    return {"w": delta["w"].reshape(-1)[:4].reshape(2, 2), "b": delta["v"][:1].float()}


def model_of(folder: Path) -> bytes:
    return (folder / "models" / "round-00001.safetensors").read_bytes()


@pytest.mark.parametrize("ring", [{}, {"ring": "ring32", "max_samples": 60, "most_updates": 8}])
def test_the_model_has_the_bits_of_a_run_without_shards(tmp_path: Path, ring: dict[str, Any]) -> None:
    alone = MaskedRun.make(tmp_path / "alone", INITIAL, sites=SITES, quorum=str(len(SITES)), **ring).start()
    for index, worker in enumerate(SITES):
        alone.send(worker, of(worker), weight=1.0 + index)
    alone.answer_all()
    shards = MaskedShards(tmp_path / "shards", part_bytes=32, inline_cap=0, **ring)
    shards.send_all()
    shards.sharded.step_partials()
    shards.sharded.root.clock.now += 1.0
    shards.sharded.step_partials()
    sums = [workers_in(body) for sender, body in shards.sharded.waiting() if sender.startswith("partial")]
    assert sorted(map(len, sums)) == [2, 3]
    shards.close_round()
    assert model_of(tmp_path / "shards") == model_of(tmp_path / "alone")


def test_killed_after_its_sum_was_sent_each_update_counts_once(tmp_path: Path) -> None:
    shards = MaskedShards(tmp_path)
    shards.send_all()
    held = shards.masked.run.broker
    shards.sharded.step_partials()
    shards.sharded.root.clock.now += 1.0
    shards.sharded.partials[0]._transport.ack = lambda deliveries: None  # type: ignore[method-assign]
    shards.sharded.step_partials()  # the sum is out, and what it is of comes again
    shards.sharded.partials[0].close()
    shards.sharded.partials[0] = shards.partial(0)
    shards.sharded.partials[0].start()
    shards.close_round()
    assert not any(held.shards.values())
    assert shards.masked.run.closed("num_folded") == [(len(SITES),)]
    assert sorted(worker for worker, verdict in shards.masked.run.verdicts() if verdict == "folded") == sorted(SITES)


def _with_updates(head: PartialHead, shards: MaskedShards, **changes: Any) -> PartialHead:
    first, *others = head.updates
    return head.model_copy(update={"updates": (first.model_copy(update=changes), *others)})


def _of_another(head: PartialHead, shards: MaskedShards) -> PartialHead:
    return _with_updates(head, shards, seeds=head.updates[1].seeds)


def _one_more_sample(head: PartialHead, shards: MaskedShards) -> PartialHead:
    return _with_updates(head, shards, num_samples=2)


def _unmasked(head: PartialHead, shards: MaskedShards) -> PartialHead:
    updates = tuple(update.model_copy(update={"seeds": ()}) for update in head.updates)
    return head.model_copy(update={"updates": updates})


def _a_seed_short(head: PartialHead, shards: MaskedShards) -> PartialHead:
    return _with_updates(head, shards, seeds=head.updates[0].seeds * 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_of_another, "is that of another update|signed"),
        (_one_more_sample, "says something of its site"),
        (_unmasked, "not masked"),
        (_a_seed_short, "2 sealed seeds; this run has 1"),
    ],
)
def test_a_sum_with_an_update_that_no_keeper_could_unmask_is_refused(
    tmp_path: Path, change: Change, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    shards = MaskedShards(tmp_path)
    shards.send_all()
    shards.sharded.step_partials()
    shards.sharded.root.clock.now += 1.0
    shards.sharded.step_partials()
    for sender, body in shards.sharded.intercept():
        head, payload = decode(body, PartialHead)
        trust = shards.masked.federation.trust(PARTIALS[head.shard])
        shards.masked.run.site.send_partial(
            encode(change(head, shards) if head.shard == 0 else head, bytes(payload), trust=trust), shard=head.shard
        )
        assert sender == f"partial.{head.shard}"
    shards.sharded.settle()
    (said,) = [text for text in caplog.messages if "set aside" in text]
    assert re.search(reason, said), said
    assert shards.masked.run.aggregator._current.updates.num_folded == 2
