"""What came of a run: one digest of all that it made, and what is wrong with what it left."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from broker.memory import MemoryBroker
from broker.wire.codec import decode
from broker.wire.messages import ModelHead

_OF_ROUNDS = "SELECT round, closed_by, num_folded, num_samples, model_sha256, step_scalars FROM rounds ORDER BY round"
_OF_COMPANIONS = "SELECT round, name, sha256 FROM companions ORDER BY round, name"
_COUNTED_TWICE = """
    SELECT base_round, worker, count(*) FROM updates WHERE verdict IN ('folded', 'outvoted')
    GROUP BY base_round, worker HAVING count(*) > 1
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    digest: str
    """Of each round's model, as ledger and file have it, and of what the step remembers."""
    problems: tuple[str, ...]


def outcome_of(state: Path, broker: MemoryBroker, problems: Sequence[str], *, may_leave_sums: bool = False) -> Outcome:
    """``problems`` are those that are known; what is wrong with the leftovers comes on top.

    ``may_leave_sums``: one that is frozen in mid-commit, and goes on after the run has ended, leaves its sum.
    """
    if problems:
        return Outcome("", tuple(problems))
    with closing(sqlite3.connect(state / "ledger.sqlite")) as ledger:
        made = [ledger.execute(_OF_ROUNDS).fetchall()]
        if ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'companions'").fetchone():
            made.append(ledger.execute(_OF_COMPANIONS).fetchall())
        twice = ledger.execute(_COUNTED_TWICE).fetchall()
    files = sorted((state / "models").glob("round-*.safetensors"))
    content = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    digest = hashlib.sha256(json.dumps([made, content]).encode()).hexdigest()
    return Outcome(digest, tuple(_wrong(state, broker, twice, may_leave_sums=may_leave_sums)))


def _wrong(
    state: Path, broker: MemoryBroker, twice: Sequence[tuple[int, str, int]], *, may_leave_sums: bool
) -> list[str]:
    found = [f"{worker}'s update for round {number} counts {times} times" for number, worker, times in twice]
    found += [f"set aside: {letter.reason}" for letter in broker.dead]
    head = decode(broker.heads[-1], ModelHead)[0]
    found += [f"left on the broker: {name}" for name in broker.blobs if head.blob is None or name != head.blob.name]
    names = () if may_leave_sums else ("sum-", "update-")
    left = [path.name for path in state.iterdir() if path.name.startswith(names) or (names and path.suffix == ".tmp")]
    left += [path.name for path in (state / "models").iterdir() if path.suffix == ".tmp"]
    left += [path.name for path in (state / "bodies").glob("*")]
    return found + [f"left in the state directory: {name}" for name in left]
