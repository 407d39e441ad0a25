"""NVFLARE's SCAFFOLD on trace C1 of docs/algorithms.md, as JSON; runs in NVFLARE's environment."""

import itertools
import json

import torch
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AlgorithmConstants
from nvflare.app_common.workflows.scaffold import scaffold_aggregate_fn
from nvflare.app_opt.pt.scaffold import PTScaffoldHelper

CURVATURES, OPTIMA, NUM_STEPS, LR = (1, 2, 3, 4), (1.0, -1.0, 2.0, 0.5), 5, 0.05


class One(torch.nn.Module):
    def __init__(self, x: float = 0.0) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.tensor([x], dtype=torch.float64))


def trained(site: int, model: One, helper: PTScaffoldHelper, x: float, c: float, number: int) -> FLModel:
    model.x.data.fill_(x)
    helper.load_global_controls({"x": torch.tensor([c], dtype=torch.float64)})
    c_global, c_local = helper.get_params()
    sgd = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(NUM_STEPS):
        sgd.zero_grad()
        (CURVATURES[site] / 2 * (model.x - OPTIMA[site]).square()).sum().backward()
        sgd.step()
        helper.model_update(model, LR, c_global, c_local)
    helper.terms_update(model=model, curr_lr=LR, c_global_para=c_global, c_local_para=c_local, model_global=One(x))
    return FLModel(
        params_type=ParamsType.DIFF,
        params={"x": (model.x.data - x).numpy()},
        meta={
            AlgorithmConstants.SCAFFOLD_CTRL_DIFF: helper.get_delta_controls(),
            "NUM_STEPS_CURRENT_ROUND": NUM_STEPS,
            "client_name": f"site-{site}",
        },
        current_round=number,
    )


def scaffold(num_rounds: int) -> list[float]:
    """The model after each round in which the next two of four sites take part."""
    sites = [(One(), PTScaffoldHelper()) for _ in CURVATURES]
    for model, helper in sites:
        helper.init(model)
    pairs, x, c, met = list(itertools.combinations(range(4), 2)), 0.0, 0.0, []
    for number in range(num_rounds):
        results = [trained(site, *sites[site], x, c, number) for site in pairs[number % len(pairs)]]
        mean = scaffold_aggregate_fn(results)
        x += float(mean.params["x"][0])
        c += float(mean.meta[AlgorithmConstants.SCAFFOLD_CTRL_DIFF]["x"][0])
        met.append(x)
    return met


if __name__ == "__main__":
    print(json.dumps({"scaffold": scaffold(6)}))
