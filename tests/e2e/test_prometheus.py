"""A real Prometheus asks a real run; what it has in the end is what the ledger says. And the files for operators."""

import json
import re
import subprocess

import pytest
import yaml
from federation import ROOT, Federation
from prometheus_process import program, prometheus
from rabbitmq_node import free_port, wait_until

pytest_plugins = ["federation_plugin"]
pytestmark = pytest.mark.timeout(300)
SOON_S = 60.0
BOARD = ROOT / "deploy" / "grafana" / "dashboards" / "fedmq.json"


def expressions() -> list[str]:
    return [target["expr"] for panel in json.loads(BOARD.read_text())["panels"] for target in panel["targets"]]


def test_its_counters_equal_the_ledger_and_the_board_shows_what_there_is(federation: Federation) -> None:
    ports = {name: free_port() for name in ("aggregator", "anna", "bert")}
    federation.gates.hold("anna", 4)
    federation.aggregator(
        "--rounds", "4", "--quorum", "2", "--commit-every-s", "0.2", "--metrics-port", str(ports["aggregator"])
    )
    for name in ("anna", "bert"):
        federation.worker(name, "--metrics-port", str(ports[name]))
    federation.gates.wait_for("anna", 4)
    with federation.channel() as channel:
        channel.basic_publish(federation.topology.inbound, "update.mallory", b"no update at all")
    refused = "SELECT id FROM updates WHERE verdict = 'refused'"
    assert wait_until(lambda: bool(federation.rows(refused)), timeout_s=SOON_S)

    with prometheus(federation.folder, ports) as asked:
        ledger = "SELECT {} FROM updates GROUP BY verdict"

        def is_equal() -> bool:
            return (
                asked.query("sum by (verdict) (fedmq_updates_total)")
                == dict(federation.rows(ledger.format("verdict, count(*)")))
                == {"folded": 7, "refused": 1}
                and asked.query("sum by (verdict) (fedmq_update_bytes_total)")
                == dict(federation.rows(ledger.format("verdict, sum(num_bytes)")))
                and asked.query("sum by (closed_by) (fedmq_rounds_total)") == {"quorum": 3}
                and asked.query("sum(fedmq_worker_updates_sent_total)") == {"": 7}
            )

        assert wait_until(is_equal, timeout_s=SOON_S), asked.query("fedmq_updates_total")
        assert asked.query("sum by (job) (up)") == dict.fromkeys(ports, 1.0)
        assert asked.query("sum(fedmq_train_seconds_count)") == {"": 7}

        names = set(asked.get("/api/v1/label/__name__/values"))
        for expression in expressions():
            asked.get("/api/v1/query", query=expression)  # an error if it is not one
            for name in re.findall(r"\b(?:fedmq|process)_\w+", re.sub(r"by \(\w+\)|\{[^}]*\}|\[\w+\]", "", expression)):
                assert name in names, f"{BOARD.name} shows {name}, which there is not"
    federation.gates.release("anna", 4)


def test_the_configuration_in_compose_is_one_that_prometheus_takes() -> None:
    config = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    done = subprocess.run([program("promtool"), "check", "config", config], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_aggregator_of_compose_answers_by_the_name_that_prometheus_asks_for() -> None:
    """The workers are asked for by their addresses, which every process answers to."""
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = next(job for job in jobs if job["job_name"] == "aggregator")["static_configs"][0]["targets"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["aggregator"]["environment"]["FEDMQ_ALLOWED_HOSTS"] == target.partition(":")[0]
