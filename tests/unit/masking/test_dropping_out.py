"""Sites of a masked round that are gone, and one that comes late: the round closes with those that count."""

from pathlib import Path

import pytest
import torch
from unit.aggregator.embedded_run import state_of
from unit.masking.kept_run import KeptRun

from broker.wire import cut

INITIAL = state_of(w=torch.zeros(40), b=torch.zeros(3))
SITES = tuple(f"clinic-{letter}" for letter in "abcdefghijk")
LATE, BEFORE, DURING, AFTER = "clinic-k", "clinic-a", "clinic-b", "clinic-c"
HEALTHY = SITES[3:10]


def delta(number: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((40,), number / 8), "b": torch.full((3,), -number / 4)}


def test_of_ten_sites_three_die_and_one_joins_and_the_rounds_close_with_those_that_count(tmp_path: Path) -> None:
    kept = KeptRun.make(tmp_path, INITIAL, sites=SITES, quorum="9", deadline_s=60.0, min_updates=3, part_bytes=64)
    masked = kept.masked
    for site in (*HEALTHY[:4], AFTER):  # clinic-a dies before anything
        masked.send(site, delta(SITES.index(site)), blob_bytes=64)
    half = masked.masked(masked.integers(delta(1), weight=1.0, metrics={}), [bytes(32)])[:128]
    masked.run.site.write_blob(masked.run.topology.update_blob(DURING, masked.head.run_id, 1), cut([half], 64))
    kept.settle()
    for site in (*HEALTHY[4:], LATE):
        assert masked.head.round == 1
        masked.send(site, delta(SITES.index(site)))
    kept.settle()
    counted = sorted([*HEALTHY, AFTER, LATE])
    assert sorted(name for name, verdict in masked.run.verdicts() if verdict == "folded") == counted
    mean = sum(SITES.index(site) for site in counted) / 9 / 8
    assert masked.run.model["w"].tolist() == pytest.approx([mean] * 40, abs=1e-6)
    for site in (*HEALTHY, LATE):
        masked.send(site, delta(1))
    kept.settle()
    assert masked.head.round == 2
    masked.run.pass_time(61)
    kept.settle()
    assert masked.run.closed() == [(1, "quorum"), (2, "deadline")]
    assert [tuple(row) for row in kept.releases()] == [(1, 9, 9), (2, 8, 8)]
    kept.close()
