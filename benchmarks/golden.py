"""The golden traces of docs/algorithms.md, as fedmq, Flower and NVFLARE give them: a table.

    python -m benchmarks.golden [--peers FOLDER]

With ``--peers``, Flower and NVFLARE run in environments of their own in that folder, which are made if they are not
there; that takes minutes.
"""

import argparse
import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from aggregator.algorithms import RoundFacts, ServerOptimizer
from aggregator.corrections.control import CONTROL_SUM, broadcast
from aggregator.corrections.scaffold import ScaffoldStep
from aggregator.robust.krum import krum_scores, multi_krum
from aggregator.state import FoldedUpdate
from benchmarks.peers.environments import FLOWER, NVFLARE, environment
from benchmarks.peers.foreign import SCRIPTS, environment_of
from broker.corrections import scaffold_weight
from broker.states.grid import OnGrid
from broker.wire import LocalTraining
from worker.algorithms.correct import Sent
from worker.algorithms.scaffold import ScaffoldCorrect

DELTAS = (1.0, 0.5, -0.25)
POINTS = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5), (10, 10), (10, 10.5)]
CURVATURES, OPTIMA, NUM_STEPS, LR = (1, 2, 3, 4), (1.0, -1.0, 2.0, 0.5), 5, 0.05
TRACES: Mapping[str, Sequence[float]] = {
    "fedavgm": (1.0, 2.4, 3.41),
    "fedadam": (0.09900990099, 0.223614628919, 0.311760671381),
    "fedyogi": (0.09900990099, 0.223119636509, 0.310516799186),
    "fedadagrad": (0.0999000999, 0.144581495195, 0.122778737179),
    "krum": (4, 0, 1),
    "krum of float32 models": (4, 0, 1),
    "scaffold": (-0.09164546875, 0.473539626745, 0.623328240914, 0.565414542757, 0.618016042012, 0.660574775123),
}
"""The papers' values."""
_OURS = {
    "fedavgm": "fedavgm",
    "fedadam": "fedadam:v0=0",
    "fedyogi": "fedyogi:v0=0",
    "fedadagrad": "fedadagrad:beta1=0,v0=0",
}
_TOLERANCES = {"scaffold": 1e-7}
"""Control variates travel in float32. All else is the same to 1e-11."""


def of_step(text: str, *, server_lr: float) -> list[float]:
    """The model after each round, from 0 on."""
    step, x, met = ServerOptimizer.parse(text).step, 0.0, []
    state, scalars = step.init(1), {}
    for delta in DELTAS:
        scalars = step.scalars(scalars, _facts(num_updates=1, divisor=1.0))
        direction, state = step.apply(np.array([delta]), state, scalars)
        x += server_lr * float(direction[0])
        met.append(x)
    return met


def of_krum(scale: float) -> list[int]:
    """The three updates that multi-Krum takes, with two attackers."""
    points = np.array(POINTS) * scale
    distances = np.square(points[:, None] - points[None]).sum(axis=2)
    return multi_krum(krum_scores(distances, 2), 3)


def of_scaffold(num_rounds: int = 6) -> list[float]:
    """The model after each round in which the next two of four sites take part; all four are known from the start."""
    step, correct = ScaffoldStep(), ScaffoldCorrect()
    state, scalars, x, met = step.init(1), {}, 0.0, []
    kept: dict[int, Mapping[str, torch.Tensor]] = {}
    for pair in itertools.islice(itertools.cycle(itertools.combinations(range(4), 2)), num_rounds):
        control = {"x": torch.from_numpy(broadcast(state[CONTROL_SUM], scalars.get("population", 0.0)))}
        deltas = []
        for site in pair:
            terms, y = correct.terms({}, control, dict(kept.get(site, {}))), x
            for _ in range(NUM_STEPS):
                y -= LR * (CURVATURES[site] * (y - OPTIMA[site]) + float(terms.linear["x"][0]))
            delta = {"x": torch.tensor([y - x], dtype=torch.float64)}
            sent = Sent(delta=delta, lr=LR, figures={"update_norm1": float(NUM_STEPS)})
            kept[site] = correct.after(sent, control, dict(kept.get(site, {})))
            deltas.append(y - x)
        facts = _facts(num_updates=len(pair), divisor=len(pair) / NUM_STEPS, population=len(CURVATURES))
        scalars = step.scalars(scalars, facts)
        total = OnGrid.rounded(np.zeros(1))
        for moved in deltas:
            total = total.plus(OnGrid.rounded(np.array([moved]), scaffold_weight(NUM_STEPS, LR)))
        state = step.add(total, state, scalars)
        mean, state = step.apply(np.array([sum(deltas) / len(deltas)]), state, scalars)
        x += float(mean[0])
        met.append(x)
    return met


def _facts(*, num_updates: int, divisor: float, population: int = 0) -> RoundFacts:
    update = FoldedUpdate(base_round=1, worker="any", staleness=0, num_samples=1, weight=1.0, base_weight=1.0)
    return RoundFacts(
        folded=[update] * num_updates,
        divisor=divisor,
        mean_norm=lambda: 1.0,
        local=LocalTraining(lr=LR),
        population=population,
    )


def ours() -> dict[str, Sequence[float]]:
    """fedmq's values."""
    rates = {"fedavgm": 1.0}
    found: dict[str, Sequence[float]] = {
        name: of_step(text, server_lr=rates.get(name, 0.1)) for name, text in _OURS.items()
    }
    return found | {"krum": of_krum(1), "krum of float32 models": of_krum(0.01), "scaffold": of_scaffold()}


def is_same(name: str, found: Sequence[float]) -> bool:
    """Whether these are the paper's values of a trace."""
    return bool(np.allclose(found, TRACES[name], rtol=0, atol=_TOLERANCES.get(name, 1e-11)))


def theirs(name: str, script: str, folder: Path) -> dict[str, Sequence[float]]:
    """What a peer gives, from its own environment."""
    home = environment(name, folder)
    command = [str(home / "bin" / "python"), str(SCRIPTS / script)]
    done = subprocess.run(command, env=environment_of(home), check=True, capture_output=True, text=True, timeout=300)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="put Flower and NVFLARE beside it")
    given = parser.parse_args(argv)
    columns = {"fedmq": ours()}
    if given.peers is not None:
        columns["Flower"] = theirs(FLOWER, "golden_flower.py", given.peers)
        columns["NVFLARE"] = theirs(NVFLARE, "golden_nvflare.py", given.peers)
    table = Table("trace", "paper", *columns, title="python -m benchmarks.golden", title_justify="left")
    for name, expected in TRACES.items():
        table.add_row(name, _text(expected), *(_cell(name, column.get(name)) for column in columns.values()))
    Console().print(table)


def _cell(name: str, found: Sequence[float] | None) -> str:
    if found is None:
        return "–"
    return "the same" if is_same(name, found) else _text(found)


def _text(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


if __name__ == "__main__":
    main()
