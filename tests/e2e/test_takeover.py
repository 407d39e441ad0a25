"""A standby without the other's state takes the run over from the newest model on the stream, if it is to."""

import json
import time

import pytest
from federation import Federation, ledger_rows

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)

NAMES = ("worker-0", "worker-1")
RUN = ("--rounds", "4", "--quorum", "2", "--commit-every-s", "0.05")
TAKEOVER_S = 10.0


def test_a_standby_with_an_empty_state_directory_goes_on_from_the_stream_with_the_same_bits(
    federation: Federation, undisturbed_sha256: object
) -> None:
    assert callable(undisturbed_sha256)
    expected = undisturbed_sha256(*NAMES, rounds=4)
    other_state = federation.folder / "other-state"
    federation.gates.hold("worker-1", 3)
    first = federation.aggregator(*RUN)
    first.says("waits for")
    workers = [federation.worker(name) for name in NAMES]
    standby = federation.aggregator(*RUN, "--take-over", state=other_state)
    standby.says("another aggregator leads; standing by")
    federation.wait_for_verdict("folded", "worker-0", 3)  # and acked, so it is lost with the first one's state

    killed_at = time.monotonic()
    first.kill()
    standby.says("taking run")
    assert time.monotonic() - killed_at < TAKEOVER_S
    federation.gates.release("worker-1", 3)

    assert [standby.ends(), *(worker.ends() for worker in workers)] == [0, 0, 0]
    summary = json.loads((other_state / "summary.json").read_text())
    assert [row["round"] for row in summary["rounds"]] == [3, 4]
    assert summary["final"]["model_sha256"] == expected
    folded = ledger_rows(other_state, "SELECT base_round, worker FROM updates WHERE verdict = 'folded' ORDER BY 1, 2")
    assert folded == [(number, name) for number in (3, 4) for name in NAMES]
