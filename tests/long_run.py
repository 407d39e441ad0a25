"""A state directory as a long run leaves it, written through the ledger: the same rows for the same numbers.

PYTHONPATH=tests:. python -m long_run runs/long         1,000 rounds and 200 workers, one of which is bad
"""

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from aggregator.state import ClosedBy, CommandRow, Ledger, RoundResult, UpdateRow, Verdict
from learning import Measured

BEGAN_AT = 1.7e9
ROUND_S = 20.0
PAUSE_S = 900.0


def write_long_run(state: Path, *, rounds: int = 1000, workers: int = 200, seed: int = 0, settings: int = 0) -> Path:
    """``workers`` answer in each round, some late, some refused; the last of them has flipped labels.

    The loss begins at 45, ``worker-1`` starts an hour early, and half way the run pauses for a quarter of an hour.
    After a third of the rounds somebody sets another learning rate.
    """
    state.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(state / "ledger.sqlite")
    ledger._db.execute("PRAGMA synchronous = OFF")  # nothing is lost that could not be written again
    ledger.record(_facts(state.name, rounds, settings))
    told = CommandRow(
        id="0a1b",
        received_at=BEGAN_AT,
        round=rounds // 3,
        sender=None,
        text="set lr=0.01",
        is_accepted=True,
        result="done",
    )
    ledger.take_command(told, {})
    ledger.open_round(1, now=BEGAN_AT)
    luck, at = random.Random(seed), BEGAN_AT
    for number in range(1, rounds + 1):
        pause_s = PAUSE_S if number == rounds // 2 else 0.0
        closed_at = at + pause_s + ROUND_S
        rows = list(_updates(number, workers, closed_at, luck))
        ledger.close_round(
            number,
            rows,
            _result(
                number, closed_at, closed_at - at, len(rows), lr=0.05 if number <= rounds // 3 else 0.01, luck=luck
            ),
            next_round=number + 1 if number < rounds else None,
            install=lambda: None,
        )
        at = closed_at
    ledger.close()
    return state


def _facts(name: str, rounds: int, variant: int) -> dict[str, object]:
    settings = {"rounds": rounds, "lr": 0.05 / (variant + 1), "local_epochs": 1, "quorum": "0.9"}
    facts = {"run": name, "run_id": f"{name}.0a1b2c3d", "queue": "updates", "task": "digits", "seed": 0, "epoch": 1}
    return facts | {"base_round": 0, "base_sha256": "0" * 64, "settings": settings}


def _updates(number: int, workers: int, closed_at: float, luck: random.Random) -> Iterator[UpdateRow]:
    for worker in range(workers):
        kind = luck.random()
        verdict = Verdict.REFUSED if kind < 0.002 else Verdict.LATE if kind < 0.02 else Verdict.FOLDED
        is_early = number == 1 and worker == 1
        train_s = 3600.0 if is_early else 5.0 + 10.0 * luck.random()
        accuracy = _accuracy(number) - (0.4 if worker == workers - 1 else 0.1 * luck.random())
        yield UpdateRow(
            received_at=closed_at - luck.random(),
            round=number,
            verdict=verdict,
            reason="tensor 'fc.bias' has NaN or infinity" if verdict is Verdict.REFUSED else None,
            worker=f"worker-{worker}",
            base_round=number if verdict is Verdict.FOLDED else number - 1,
            staleness=0,
            num_samples=100 + worker,
            weight=1.0,
            num_bytes=50_000,
            train_s=train_s,
            queue_s=0.5 + luck.random(),
            train_metrics={"loss": 45.0 / number},
            eval_metrics={"accuracy": round(accuracy, 4), "loss": round(45.0 / number, 4)},
        )


def _accuracy(number: int) -> float:
    return 0.95 - 0.85 * math.exp(-number / 60)


def _result(
    number: int, closed_at: float, seconds: float, num_rows: int, *, lr: float, luck: random.Random
) -> RoundResult:
    accuracy = _accuracy(number) + 0.01 * luck.random()
    loss = 45.0 if number == 1 else 0.3 + 2.0 * math.exp(-number / 60) + 0.01 * luck.random()
    return RoundResult(
        closed_by=ClosedBy.QUORUM,
        closed_at=closed_at,
        seconds=seconds,
        num_samples=100 * num_rows,
        settings={"lr": lr, "quorum": "0.9"},
        measured=Measured({"accuracy": accuracy, "loss": loss}, 360),
        model_sha256=f"{luck.getrandbits(256):064x}",
    )


if __name__ == "__main__":
    write_long_run(Path(sys.argv[1]))
