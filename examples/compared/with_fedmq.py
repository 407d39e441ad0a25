"""One site's training script, as it was before anybody thought of a federation."""

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import fedmq


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(points)


def read_data(site: str) -> tuple[TensorDataset, TensorDataset]:
    random = torch.Generator().manual_seed(sum(site.encode()))
    points = torch.randn(512, 2, generator=random)
    labels = (points[:, 0] * points[:, 1] > 0).long()
    return TensorDataset(points[:384], labels[:384]), TensorDataset(points[384:], labels[384:])


def train(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    model.train()
    for points, labels in loader:
        loss = cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    points, labels = data.tensors
    return (model.eval()(points).argmax(dim=1) == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--site", default="north")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--width", type=int, default=32)
    arguments = parser.parse_args()

    train_set, test_set = read_data(arguments.site)
    loader = DataLoader(train_set, batch_size=32, shuffle=True)
    model = Network(arguments.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    for round in fedmq.rounds(model, evaluate=lambda model: {"accuracy": accuracy(model, test_set)}):
        loss = train(model, loader, optimizer)
        round.send(num_samples=len(train_set), metrics={"loss": loss})
        print(f"round {round.number}: loss {loss:.4f}, accuracy {accuracy(model, test_set):.3f}")
    torch.save(model.state_dict(), f"{arguments.site}.pt")


if __name__ == "__main__":
    main()
