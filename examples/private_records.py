"""Records that stay private at their site: DP-SGD with Opacus, and an accountant that goes on where it left off.

pip install 'fedmq[dp]'
fl-simulate --task examples/private_records.py:PrivateRecords --workers 4 --rounds 10
fl-worker --task examples/private_records.py:PrivateRecords --name hospital-a --state state --task-arg epsilon=4

What each site sends is differentially private for each of its records (one more or one less), whoever reads it. Its
epsilon is a metric of the site's, and a line in its log. The accountant's steps are in `plan.memory`, so with --state
they last over restarts; they count once the update is on its way. Another run begins at 0 again, though not the data.
"""

import logging
import os
import warnings

import torch
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

log = logging.getLogger(__name__)


class PrivateRecords:
    def __init__(self, site):
        random = torch.Generator().manual_seed(0 if site.is_aggregator else 1 + (site.index or 0))
        self.inputs = torch.randn(256, 8, generator=random)
        self.labels = (self.inputs[:, :4].sum(1) > 0).long()
        self.is_aggregator = site.is_aggregator
        self.epsilon = float(site.args.get("epsilon", "8"))
        self.delta = float(site.args.get("delta", "1e-4"))  # well below one in the number of records
        self.noise, self.clip = float(site.args.get("noise", "1")), float(site.args.get("clip", "1"))

    def model(self):
        return nn.Linear(8, 2)  # no BatchNorm: it mixes records, and Opacus refuses it

    def train(self, model, plan):
        accountant = recalled(plan.memory)
        spent = accountant.get_epsilon(self.delta)
        rate = min(1.0, self.batch_size(plan) / len(self.inputs))
        steps = plan.epochs * round(1 / rate)
        if self.epsilon_after(accountant, rate, steps) > self.epsilon:
            log.warning("epsilon %.2f at delta %g is all that is left to give: nothing is trained", spent, self.delta)
            return {"num_samples": len(self.inputs), "epsilon": spent}  # the model as it came: an update of zeros
        self.descend(model, plan, accountant)
        spent = accountant.get_epsilon(self.delta)
        remember(accountant, plan.memory)
        log.info("epsilon %.2f at delta %g (unit: one record, there or not), all rounds together", spent, self.delta)
        return {"num_samples": len(self.inputs), "epsilon": spent}  # the loss would say something of the records, too

    def descend(self, model, plan, accountant):
        # from the machine, never from plan.seed: the aggregator knows that, and could take the noise off
        random = torch.Generator().manual_seed(int.from_bytes(os.urandom(8), "little"))
        batches = DataLoader(TensorDataset(self.inputs, self.labels), self.batch_size(plan), generator=random)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of generators for cryptography, which PyTorch has none of
            engine = PrivacyEngine(accountant="rdp")
            engine.accountant = accountant
            hooks, optimizer, batches = engine.make_private(
                module=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=plan.lr),
                data_loader=batches,
                noise_multiplier=self.noise,
                max_grad_norm=self.clip,
                noise_generator=random,
                wrap_model=False,
            )
            for _ in range(plan.epochs):
                for inputs, labels in batches:  # each record is in it by chance: Poisson sampling
                    if plan.cancelled():
                        break
                    optimizer.zero_grad()
                    cross_entropy(model(inputs), labels).backward()
                    optimizer.step()
            hooks.cleanup()

    def batch_size(self, plan):
        return plan.batch_size or len(self.inputs)

    def epsilon_after(self, accountant, rate, steps):
        after = RDPAccountant()
        after.history = [*accountant.history, (self.noise, rate, steps)]
        return after.get_epsilon(self.delta)

    @torch.no_grad()
    def evaluate(self, model):
        if not self.is_aggregator:
            return {}  # what a site measures on its records would need noise as well
        guessed = model(self.inputs).argmax(1)
        return {"accuracy": (guessed == self.labels).float().mean().item(), "num_samples": len(self.inputs)}


def recalled(memory):
    """The accountant as ``remember`` kept it; a new one in the first round."""
    accountant = RDPAccountant()
    rows = memory.get("steps", torch.zeros(0, 3, dtype=torch.float64)).tolist()
    accountant.history = [(noise, rate, int(steps)) for noise, rate, steps in rows]
    return accountant


def remember(accountant, memory):
    """Keeps what an accountant counted: a row of noise, sample rate and number of steps for each kind of step."""
    memory["steps"] = torch.tensor(accountant.history, dtype=torch.float64).reshape(-1, 3)
