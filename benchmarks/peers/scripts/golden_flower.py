"""Flower's strategies on the traces of docs/algorithms.md, as JSON; runs in Flower's environment."""

import json
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.supercore.task_identity import TaskIdentity

STEPPED = {
    "fedavgm": lambda: FedAvgM(server_learning_rate=1.0, server_momentum=0.9),
    "fedadam": lambda: FedAdam(eta=0.1),
    "fedyogi": lambda: FedYogi(eta=0.1),
    "fedadagrad": lambda: FedAdagrad(eta=0.1),
}
POINTS = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5), (10, 10), (10, 10.5)]
"""Updates, of which the last two are an attacker's."""


def content(values: Sequence[float], dtype: str = "float64") -> RecordDict:
    arrays = ArrayRecord(OrderedDict(w=Array(np.array(values, dtype))))
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})


def reply(values: Sequence[float], node: int) -> Message:
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    return Message(content(values), reply_to=asked)


def stepped(name: str, deltas: Sequence[float]) -> list[float]:
    strategy, x, met = STEPPED[name](), 0.0, []
    for number, delta in enumerate(deltas, 1):
        before = ArrayRecord(OrderedDict(w=Array(np.array([x]))))
        strategy.current_arrays = before if name == "fedavgm" else {"w": np.array([x])}
        arrays, _ = strategy.aggregate_train(number, [reply([x + delta], node) for node in (1, 2)])
        x = float(arrays.to_numpy_ndarrays()[0][0])
        met.append(x)
    return met


def selected(points: Sequence[Sequence[float]], dtype: str) -> list[int]:
    """The numbers of the three points that multi-Krum takes, with two attackers."""
    records = [content(point, dtype) for point in points]
    return [next(n for n, one in enumerate(records) if one is taken) for taken in select_multikrum(records, 2, 3)]


if __name__ == "__main__":
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    found: dict[str, list[float]] = {name: stepped(name, [1, 0.5, -0.25]) for name in STEPPED}
    found["krum"] = selected(POINTS, "float64")
    of_models = [[300 + x / 100, 300 + y / 100] for x, y in POINTS]
    found["krum of float32 models"] = selected(of_models, "float32")
    print(json.dumps(found))
