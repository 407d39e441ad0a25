"""Flower's own FedAvg over a model of 20 tensors; writes down when each round begins."""

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

NUM_TENSORS = 20

app = ServerApp()


class TimedFedAvg(FedAvg):
    """Changes nothing of the averaging."""

    opened: Path

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        with self.opened.open("a", encoding="ascii") as file:
            file.write(f"{time.time()}\n")
        return super().configure_train(server_round, arrays, config, grid)


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    num_workers, num_elements = int(config["workers"]), int(config["bytes"]) // 4 // NUM_TENSORS
    names = [f"tensor-{index}" for index in range(NUM_TENSORS)]
    strategy = TimedFedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=num_workers, min_available_nodes=num_workers
    )
    strategy.opened = Path(str(config["opened"]))
    random = np.random.default_rng(0)
    model = ArrayRecord({name: Array(random.standard_normal(num_elements, dtype=np.float32)) for name in names})
    strategy.start(grid=grid, initial_arrays=model, num_rounds=int(config["rounds"]))
