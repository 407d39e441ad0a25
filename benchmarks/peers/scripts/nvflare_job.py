"""A job for NVFLARE's simulator, and the simulator; runs in NVFLARE's environment."""

import argparse
import os
from pathlib import Path

from nvflare.client.config import ExchangeFormat
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner
from nvflare_rounds import TimedFedAvg


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--bytes", "--rounds", "--workers"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--opened", "--workspace"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    os.chdir(Path(__file__).parent)  # the job's script is looked for from here
    job = FedJob(name="noop")
    job.to_server(TimedFedAvg(given.bytes, given.opened, given.workers, given.rounds))
    site = ScriptRunner(
        script="nvflare_site.py", framework=FrameworkType.PYTORCH, server_expected_format=ExchangeFormat.PYTORCH
    )
    job.to_clients(site)
    job.simulator_run(workspace=given.workspace, n_clients=given.workers, threads=given.workers)


if __name__ == "__main__":
    main()
