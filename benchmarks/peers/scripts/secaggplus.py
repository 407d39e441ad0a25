"""Rounds of Flower's SecAgg+, its own workflow and its own mod in one process; runs in Flower's environment.

    python secaggplus.py NUM_ROUNDS NUM_CLIENTS NUM_PARAMETERS NUM_LOST NUM_SHARES THRESHOLD

NUM_LOST clients leave after they have shared their keys, while they train. Prints CPU seconds and bytes of the median
round as JSON.
"""

import json
import logging
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.serde import recorddict_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

TRAINS = 3
"""The message at which a client trains, of the four that it gets."""


class Everybody(FedAvg):
    """Asks all clients, and keeps the mean."""

    def __init__(self, num_clients: int) -> None:
        super().__init__()
        self.num_clients = num_clients
        self.mean: np.ndarray | None = None

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
        return [(SimpleNamespace(node_id=node), FitIns(parameters, {})) for node in range(1, self.num_clients + 1)]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}


class Clients:
    """The grid: hands each message to its client at once, and counts."""

    def __init__(self, updates: dict[int, np.ndarray], lost: set[int]) -> None:
        self.updates, self.lost = updates, lost
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in updates}
        self.client_s, self.counting_s = 0.0, 0.0
        self.sent_bytes, self.received_bytes = 0, 0
        self.num_exchanges = 0

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        self.num_exchanges += 1
        return [self.answer(message) for message in messages]

    def answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if self.num_exchanges == TRAINS and node in self.lost:
            return Message(Error(code=0, reason="lost"), reply_to=message)
        self.received_bytes += self.size(message, with_arrays=False)
        own = copy_of(message)
        begun_at = time.process_time()
        reply = secaggplus_mod(own, self.contexts[node], self.trained)
        self.client_s += time.process_time() - begun_at
        self.sent_bytes += self.size(reply, with_arrays=True)
        return reply

    def trained(self, message: Message, context: Context) -> Message:
        update = ndarrays_to_parameters([self.updates[message.metadata.dst_node_id]])
        result = FitRes(Status(Code.OK, ""), update, 1, {})
        return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)

    def size(self, message: Message, *, with_arrays: bool) -> int:
        """Of a message on its way; without the model that goes out, which a plain round sends as well."""
        begun_at = time.process_time()
        content = recorddict_to_proto(message.content)
        num_bytes = content.ByteSize()
        if not with_arrays:
            records = recorddict_to_proto(RecordDict(dict(message.content.array_records)))
            num_bytes -= records.ByteSize()
        self.counting_s += time.process_time() - begun_at
        return num_bytes


def copy_of(message: Message) -> Message:
    """What arrives: one that the client may change."""
    content = {
        name: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
        for name, record in message.content.items()
    }
    about = message.metadata
    return Message(
        RecordDict(content), dst_node_id=about.dst_node_id, message_type=about.message_type, group_id=about.group_id
    )


def measured(num_clients: int, num_parameters: int, num_lost: int, num_shares: int, threshold: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    nodes = range(1, num_clients + 1)
    updates = {node: random.standard_normal(num_parameters, np.float32) for node in nodes}
    lost = set(nodes[:num_lost])
    state = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: 1})})
    model = ndarrays_to_parameters([np.zeros(num_parameters, np.float32)])
    state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(model, keep_input=True)
    strategy = Everybody(num_clients)
    context = LegacyContext(Context(1, 1, {}, state, {}), strategy=strategy)
    clients = Clients(updates, lost)
    workflow = SecAggPlusWorkflow(num_shares, threshold)
    begun_at = time.process_time()
    workflow(clients, context)  # type: ignore[arg-type]
    seconds = time.process_time() - begun_at - clients.counting_s
    assert strategy.mean is not None, "the round was not closed"
    true = np.mean([updates[node] for node in nodes if node not in lost], axis=0, dtype=np.float64)
    return {
        "seconds": seconds,
        "client_s": clients.client_s / num_clients,
        "server_s": seconds - clients.client_s,
        "sent_bytes": clients.sent_bytes / num_clients,
        "received_bytes": clients.received_bytes / num_clients,
        "error": float(np.abs(strategy.mean - true).max()),
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    num_rounds, *numbers = map(int, sys.argv[1:])
    found = sorted((measured(*numbers) for _ in range(num_rounds)), key=lambda one: one["seconds"])
    print(json.dumps(found[num_rounds // 2]))
