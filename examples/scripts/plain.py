"""An ordinary training script, federated: its own arguments, AdamW, a schedule, mixed precision, its own evaluation.

    fl-aggregator --script examples/scripts/plain.py --rounds 20 --quorum 3
    fl-worker --script examples/scripts/plain.py --name north -- --site north --epochs 2

The lines that federate it are those with the word fedmq, and the one with `send`.
"""

import argparse
import zlib

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import fedmq


def spirals(num_samples: int, *, seed: int) -> TensorDataset:
    """Points on two interleaved spirals. A real script reads its own files here."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (num_samples,), generator=random)
    angle = 1.5 * (0.2 + torch.rand(num_samples, generator=random)) + torch.pi * labels
    points = (angle - torch.pi * labels) * torch.stack([angle.cos(), angle.sin()])
    return TensorDataset(points.T + 0.03 * torch.randn(num_samples, 2, generator=random), labels)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--site", default="anywhere", help="whose data")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=32)
    return parser.parse_args()


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> dict[str, float]:
    points, labels = data.tensors
    right = model.eval()(points).argmax(dim=1) == labels
    return {"accuracy": right.float().mean().item(), "num_samples": len(data)}


def main() -> None:
    arguments = parsed()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_set = spirals(256, seed=zlib.crc32(arguments.site.encode()))
    test_set = spirals(256, seed=0)
    loader = DataLoader(train_set, batch_size=32, shuffle=True)

    width = arguments.width
    model: nn.Module = nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
    )
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)

    for round in fedmq.rounds(model, evaluate=lambda model: accuracy(model, test_set)):
        model.train()
        for _ in range(arguments.epochs):
            for points, labels in loader:
                with torch.autocast(device, dtype=torch.bfloat16):
                    loss: Tensor = cross_entropy(model(points.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if round.cancelled():
                    break
        schedule.step()
        round.send(num_samples=len(train_set), metrics={"loss": loss.item()})

    print(f"after the last round: {accuracy(model, test_set)['accuracy']:.3f}")


if __name__ == "__main__":
    main()
