"""NVFLARE's own FedAvg over a model of 20 tensors; writes down when each round begins, and no model to disk."""

import time
from pathlib import Path
from typing import Any

import torch
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

NUM_TENSORS = 20


class TimedFedAvg(FedAvg):
    """Changes nothing of the averaging."""

    def __init__(self, num_bytes: int, opened: str, num_clients: int, num_rounds: int) -> None:
        super().__init__(num_clients=num_clients, num_rounds=num_rounds, persistor_id="", save_filename="")
        self.num_bytes = num_bytes
        self.opened = opened

    def run(self) -> None:
        fobs.register(TensorDecomposer)  # so that tensors travel as they are, as with NVFLARE's own for PyTorch
        super().run()

    def load_model(self) -> FLModel:
        num_elements = self.num_bytes // 4 // NUM_TENSORS
        return FLModel(params={f"tensor-{index}": torch.randn(num_elements) for index in range(NUM_TENSORS)})

    def save_model(self, model: FLModel) -> None:
        pass

    def sample_clients(self, *args: Any, **options: Any) -> Any:
        """The first call in a round."""
        with Path(self.opened).open("a", encoding="ascii") as file:
            file.write(f"{time.time()}\n")
        return super().sample_clients(*args, **options)
