"""One site's training script, as it was before anybody thought of a federation."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


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


app = ClientApp()


@app.train()
def train_round(message: Message, context: Context) -> Message:
    arguments = context.run_config
    train_set, _ = read_data(context.node_config["site"])
    loader = DataLoader(train_set, batch_size=32, shuffle=True)
    model = Network(arguments["width"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments["lr"])
    loss = train(model, loader, optimizer)
    metrics = MetricRecord({"loss": loss, "num-examples": len(train_set)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    _, test_set = read_data(context.node_config["site"])
    model = Network(context.run_config["width"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    metrics = MetricRecord({"accuracy": accuracy(model, test_set), "num-examples": len(test_set)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


server_app = ServerApp()


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    model = Network(context.run_config["width"])
    strategy = FedAvg(min_available_nodes=3)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=20)
    torch.save(result.arrays.to_torch_state_dict(), "final.pt")
