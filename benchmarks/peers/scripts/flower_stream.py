"""Flower's deprecated server and client over one gRPC stream; runs in Flower's environment."""

import argparse
import time
from pathlib import Path

import numpy as np
from flwr.client import NumPyClient, start_client
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg

NUM_TENSORS = 20
STEP = 0.001
MAX_MESSAGE_BYTES = 2**31 - 1


class TimedFedAvg(FedAvg):
    """Changes nothing of the averaging; writes down when each round begins."""

    opened: Path

    def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        with self.opened.open("a", encoding="ascii") as file:
            file.write(f"{time.time()}\n")
        return super().configure_fit(server_round, parameters, client_manager)


class Adding(NumPyClient):
    """Adds a constant of its own to the model and sends it back."""

    def __init__(self, index: int) -> None:
        self.constant = np.float32(STEP * (1 + index))

    def fit(self, parameters, config):  # type: ignore[no-untyped-def]
        return [values + self.constant for values in parameters], 1, {}


def serve(given: argparse.Namespace) -> None:
    random, num_elements = np.random.default_rng(0), given.bytes // 4 // NUM_TENSORS
    model = [random.standard_normal(num_elements, dtype=np.float32) for _ in range(NUM_TENSORS)]
    strategy = TimedFedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=given.workers,
        min_available_clients=given.workers,
        min_evaluate_clients=0,
        initial_parameters=ndarrays_to_parameters(model),
    )
    strategy.opened = given.opened
    del model
    start_server(
        server_address=given.address,
        config=ServerConfig(num_rounds=given.rounds),
        strategy=strategy,
        grpc_max_message_length=MAX_MESSAGE_BYTES,
    )


def take_part(given: argparse.Namespace) -> None:
    start_client(
        server_address=given.address,
        client=Adding(given.index).to_client(),
        insecure=True,
        grpc_max_message_length=MAX_MESSAGE_BYTES,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    roles = parser.add_subparsers(dest="role", required=True)
    server, client = roles.add_parser("server"), roles.add_parser("client")
    for name in ("--bytes", "--rounds", "--workers"):
        server.add_argument(name, type=int, required=True)
    server.add_argument("--opened", type=Path, required=True)
    client.add_argument("--index", type=int, required=True)
    given = parser.parse_args()
    (serve if given.role == "server" else take_part)(given)


if __name__ == "__main__":
    main()
