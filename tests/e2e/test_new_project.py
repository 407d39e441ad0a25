"""A project as fl-init writes it, run by hand: an aggregator and two workers on a real RabbitMQ."""

import json
import os
from pathlib import Path

import pytest
from federation import Command, environment

from scaffold.cli import write_project

pytestmark = pytest.mark.timeout(300)


def test_the_files_of_a_new_project_run_over_rabbitmq(tmp_path: Path, broker_url: str, queue: str) -> None:
    project = tmp_path / "mine"
    write_project(project)
    env = os.environ | environment(FEDMQ_BROKER=broker_url, FEDMQ_QUEUE=queue)

    def start(module: str, *flags: str) -> Command:
        log = tmp_path / f"{module}-{flags[-1]}.log"
        return Command(module, flags, folder=project, env=env, log=log)

    commands = [start("aggregator.cli", "--config", "run.yaml")]
    try:
        commands += [start("worker.cli", "--config", "worker.yaml", "--name", name) for name in ("anna", "bert")]
        assert [command.ends() for command in commands] == [0, 0, 0]
    finally:
        for command in commands:
            command.end()
    summary = json.loads((project / "state" / "summary.json").read_text())
    assert (summary["run"], len(summary["rounds"])) == ("mine", 10)
    assert summary["final"]["metrics"]["accuracy"] > 0.7
