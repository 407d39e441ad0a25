"""APFL (Deng, Kamani & Mahdavi 2020, arXiv:2003.13461): each site mixes the global model with one of its own.

    fl-simulate --task examples/apfl.py:task --workers 5 --rounds 10 --partition dirichlet:0.1
    fl-simulate --task examples/apfl.py:task --workers 5 --rounds 10 --partition dirichlet:0.1 --plan-arg alpha=0.75

    w <- w - lr * grad f(w)        v <- v - lr * grad_v f(alpha v + (1 - alpha) w)        algorithm 1

w is trained and averaged as in FedAvg, v never leaves the site: it lies in ``plan.memory``. ``personal.accuracy`` and
``personal.loss`` are of the mixture after its training, on the site's own held-out data; ``evaluate`` measures w.
"""

import copy

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from learning import Plan, Site, Supervised
from learning.batches import Batches
from learning.digits import cnn, digits
from learning.supervised import SupervisedTask
from learning.training import sgd


class Apfl(SupervisedTask):
    """Digits, with two models to train."""

    def __init__(self, site: Site) -> None:
        super().__init__(Supervised(model=cnn, data=digits, loss=cross_entropy), site)

    def train(self, model: nn.Module, plan: Plan) -> dict[str, float]:
        alpha = share_of(plan)
        images, labels = self.split.train
        own = copy.deepcopy(model.to(plan.device))  # v begins as the first model that the site receives
        if plan.memory:
            own.load_state_dict(dict(plan.memory))
        optimizer = sgd([*model.parameters(), *own.parameters()], plan)
        for batch in Batches(num_samples=len(labels), plan=plan):
            if plan.cancelled():
                break
            inputs, targets = images[batch].to(plan.device), labels[batch].to(plan.device)
            personal = functional_call(model, mixed(own, model, alpha), inputs)
            loss = cross_entropy(model(inputs), targets) + cross_entropy(personal, targets)
            optimizer.zero_grad()
            loss.backward()
            plan.correct(model.parameters())
            optimizer.step()
        plan.memory.update({name: tensor.clone() for name, tensor in own.state_dict().items()})
        return {"num_samples": len(labels), **self.measured(own, model, alpha)}

    def measured(self, own: nn.Module, model: nn.Module, alpha: float) -> dict[str, float]:
        """What the mixture is worth to the site; nothing where it has no held-out data."""
        personal = copy.deepcopy(model)
        personal.load_state_dict(mixed(own, model, alpha))
        metrics = self.evaluate(personal)
        return {f"personal.{name}": value for name, value in metrics.items() if name != "num_samples"}


def share_of(plan: Plan) -> float:
    """Alpha, the share of a site's own model in the mixture."""
    alpha = float(plan.args.get("alpha", "0.5"))
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is a share from 0 to 1, not {alpha:g}; see --plan-arg")
    return alpha


def mixed(own: nn.Module, model: nn.Module, alpha: float) -> dict[str, Tensor]:
    """alpha v + (1 - alpha) w; its gradient is that of v alone."""
    pairs = zip(own.named_parameters(), model.parameters(), strict=True)
    return {name: alpha * v + (1 - alpha) * w.detach() for (name, v), w in pairs}


task = Apfl
