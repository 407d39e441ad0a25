"""The public face of fedmq for training scripts and notebooks.

    import fedmq

    for round in fedmq.rounds(model):               # the newest global model, loaded into `model`
        train(model, ...)                           # as before
        round.send(num_samples=len(train_set))

``rounds`` makes a script with a loop of its own a worker; ``simulate`` runs a whole federation in this process;
``Supervised``, ``Split`` and ``Site`` are for tasks that ``fl-worker --task`` names.
"""

from fedmq.rounds import Round, rounds
from learning import Plan, Site, Split, Supervised, Task
from simulation import simulate

__all__ = ["Plan", "Round", "Site", "Split", "Supervised", "Task", "rounds", "simulate"]
