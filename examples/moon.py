"""MOON (Li, He & Song 2021, arXiv:2103.16257): each site's features are drawn to those of the model that it received.

    fl-simulate --task examples/moon.py:task --workers 5 --rounds 10 --partition dirichlet:0.5
    fl-simulate --task examples/moon.py:task --workers 5 --rounds 10 --plan-arg mu=5 --plan-arg temperature=0.5

    loss + mu * -log(e^(s(z, z_received) / T) / (e^(s(z, z_received) / T) + e^(s(z, z_previous) / T)))    equation 4

z are features of a batch, s is their cosine similarity. What is pushed away is the model that the site itself trained
last: it lies in ``plan.memory``, so it is always that of an update that was sent, and outlives the process.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from learning import Plan, Site, Supervised
from learning.batches import Batches
from learning.digits import cnn, digits
from learning.supervised import SupervisedTask
from learning.training import sgd


def network() -> nn.Module:
    """The encoder of ``digits``, a projection to 64 features, and the layer from features to labels, which is last."""
    projection = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 64))
    return nn.Sequential(*cnn()[:-1], projection, nn.Linear(64, 10))


class Moon(SupervisedTask):
    """Digits, with a training of its own."""

    def __init__(self, site: Site) -> None:
        super().__init__(Supervised(model=network, data=digits, loss=cross_entropy), site)

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        mu, temperature = float(plan.args.get("mu", "1")), float(plan.args.get("temperature", "0.5"))
        images, labels = self.split.train
        received = fixed(model.to(plan.device), model.state_dict())
        previous = fixed(model, plan.memory) if plan.memory else None  # none in a site's first training
        optimizer = sgd(list(model.parameters()), plan)
        contrasts = []
        for batch in Batches(num_samples=len(labels), plan=plan):
            if plan.cancelled():
                break
            inputs, targets = images[batch].to(plan.device), labels[batch].to(plan.device)
            features = model[:-1](inputs)
            loss = cross_entropy(model[-1](features), targets)
            if previous is not None:
                contrasts.append(contrast(features, received[:-1](inputs), previous[:-1](inputs), temperature))
                loss = loss + mu * contrasts[-1]
            optimizer.zero_grad()
            loss.backward()
            plan.correct(model.parameters())
            optimizer.step()
        plan.memory.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        mean = torch.stack(contrasts).mean().item() if contrasts else 0.0
        return {"num_samples": len(labels), "contrast": mean}


def contrast(features: Tensor, received: Tensor, previous: Tensor, temperature: float) -> Tensor:
    """Equation 3 for features (batch, features) of three models, as a mean over the batch: near 0 where the first
    are those of the second and not of the third, log 2 where both are as near."""
    near, far = cosine_similarity(features, received), cosine_similarity(features, previous)
    nearest = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    return cross_entropy(torch.stack([near, far], dim=1) / temperature, nearest)


def fixed(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A model with these values, which is not trained."""
    model = copy.deepcopy(model).requires_grad_(False)
    model.load_state_dict(dict(state))
    return model


task = Moon
