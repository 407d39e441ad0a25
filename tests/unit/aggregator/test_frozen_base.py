"""A frozen base that stays at the sites is the same everywhere, or both ends say whose is not."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aggregator.settings import AggregatorSettings
from broker.modules import ModelTensors
from broker.wire import Folded
from learning import Site
from simulation import simulate


class Adapted(nn.Module):
    """LoRA: a frozen matrix, a trained one of low rank beside it, a personal head, and a buffer that training moves."""

    def __init__(self, base: float, head: float = 0.0) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4, bias=False)
        nn.init.constant_(self.base.weight, base)
        self.base.weight.requires_grad = False
        self.lora_a, self.lora_b = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.zeros(4, 1))
        self.head = nn.Linear(4, 2)
        nn.init.constant_(self.head.weight, head)
        self.register_buffer("moved", torch.tensor(head))


class Task:
    def __init__(self, site: Site) -> None:
        self.base = float(site.args.get("base", "1"))
        self.head = float(site.args.get("head", "0"))

    def model(self) -> nn.Module:
        return Adapted(self.base, self.head)

    def train(self, model: Any, plan: Any) -> dict[str, float]:
        with torch.no_grad():
            model.lora_b += 1
            model.head.weight += 1
            model.moved += 1
        return {"num_samples": 1}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


ALIKE = {"north": {}, "south": {"head": 5}}
ONE_OTHER = {"north": {}, "south": {"base": 2}, "west": {}}


def run(folder: Path, sites: dict[str, dict[str, Any]], shared: str = "lora_*", **settings: Any) -> None:
    simulate(Task, sites=sites, shared=shared, rounds=2, state=folder, **settings)


def verdicts(folder: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
        return set(ledger.execute("SELECT worker, verdict FROM updates WHERE worker IS NOT NULL").fetchall())


def warnings(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == logger and "frozen parameters" in record.getMessage()
    ]


def test_a_site_with_another_base_is_named_once_at_both_ends_and_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, ONE_OTHER)
    (told,) = warnings(caplog, "aggregator.senders.bases")
    assert told.startswith("worker south trains with other frozen parameters than those here")
    assert "--require-same-base" in told
    (told,) = warnings(caplog, "worker.service")
    assert told.startswith("the frozen parameters here are not those of the aggregator")
    assert verdicts(tmp_path) == {("north", "folded"), ("south", "folded"), ("west", "folded")}


def test_a_site_with_another_base_is_refused_where_the_run_asks_for_the_same(tmp_path: Path) -> None:
    run(tmp_path, ONE_OTHER, require_same_base=True, quorum="2")
    assert verdicts(tmp_path) == {("north", "folded"), ("south", "refused"), ("west", "folded")}
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        (reason,) = ledger.execute("SELECT DISTINCT reason FROM updates WHERE worker = 'south'").fetchone()
    assert reason.startswith("trained with other frozen parameters than those here")


@pytest.mark.parametrize("shared", ["lora_*", "!head.*", "trainable", "*"])
def test_a_personal_head_and_buffers_are_no_base(shared: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(tmp_path, ALIKE, shared, require_same_base=True)
    assert not warnings(caplog, "aggregator.senders.bases") + warnings(caplog, "worker.service")
    assert verdicts(tmp_path) == {("north", "folded"), ("south", "folded")}


def test_what_travels_is_no_part_of_the_digest() -> None:
    model = Adapted(1.0)
    tensors = ModelTensors.of(model)
    state = tensors.taken_from(model)
    assert tensors.base_sha256(state, tensors.shared(["*"])) is None
    assert tensors.base_sha256(state, tensors.shared(["trainable"])) is not None
    assert "base_sha256" not in Folded.model_validate(FOLDED).model_dump()
    assert Folded.model_validate(FOLDED | {"base_sha256": "0" * 64}).model_dump()["base_sha256"] == "0" * 64


FOLDED = {"worker": "a", "instance": "0" * 16, "num_samples": 1, "num_bytes": 1, "train_s": 0.0, "sent_at": 0.0}


def test_shards_do_not_go_with_it() -> None:
    with pytest.raises(ValueError, match="--require-same-base needs each update by itself"):
        AggregatorSettings(shards=2, require_same_base=True)
