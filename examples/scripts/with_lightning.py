"""A Lightning module and its Trainer, federated.

    fl-aggregator --script examples/scripts/with_lightning.py --rounds 10 --quorum 3
    fl-worker --script examples/scripts/with_lightning.py --name north -- --site north

Needs the extra `examples`. A Trainer makes its optimizers anew in each `fit`, as it does without fedmq.
"""

import argparse
import logging
import zlib

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

import fedmq


def waves(num_samples: int, *, seed: int) -> TensorDataset:
    random = torch.Generator().manual_seed(seed)
    inputs = 6 * torch.rand(num_samples, 1, generator=random) - 3
    return TensorDataset(inputs, inputs.sin() + 0.05 * torch.randn(num_samples, 1, generator=random))


class Regression(LightningModule):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = mse_loss(self.network(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_loss", mse_loss(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class StopWith(Callback):
    """Ends a training that can no longer count."""

    def __init__(self, round: fedmq.Round) -> None:
        self.round = round

    def on_train_batch_end(self, trainer: Trainer, *others: object) -> None:
        trainer.should_stop = trainer.should_stop or self.round.cancelled()


def trainer(*callbacks: Callback) -> Trainer:
    return Trainer(
        accelerator="auto",
        max_epochs=2,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--site", default="anywhere", help="whose data")
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

    model = Regression()
    train_set = waves(128, seed=zlib.crc32(arguments.site.encode()))
    loader, test_loader = DataLoader(train_set, 16, shuffle=True), DataLoader(waves(256, seed=0), 256)

    def validate(module: nn.Module) -> dict[str, float]:
        (metrics,) = trainer().validate(module, test_loader, verbose=False)
        return {"loss": metrics["val_loss"]}

    for round in fedmq.rounds(model, evaluate=validate):
        fitting = trainer(StopWith(round))
        fitting.fit(model, loader)
        round.send(num_samples=len(train_set), metrics={"loss": fitting.callback_metrics["loss"].item()})


if __name__ == "__main__":
    main()
