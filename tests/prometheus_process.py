"""A real Prometheus of a test's own."""

import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rabbitmq_node import GuardedProcess, free_port, wait_until

SOON_S = 60.0
NONE: Mapping[str, str] = MappingProxyType({})


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"needs {name} on PATH: apt install prometheus (make test does)"
    return found


class Prometheus:
    """One of the test's own, which asks these addresses every 200 ms."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}?{query}", timeout=10) as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> dict[str, float]:
        """Values by the one label that the expression keeps."""
        result = self.get("/api/v1/query", query=expression)["result"]
        return {next(iter(series["metric"].values()), ""): float(series["value"][1]) for series in result}

    def is_up(self) -> bool:
        try:
            return bool(self.get("/api/v1/status/buildinfo"))
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, targets: dict[str, int], *, labels: Mapping[str, str] = NONE) -> Iterator[Prometheus]:
    """Asks the port of each job; ``labels`` are put onto all that it is told."""
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": dict(labels)}]}
        for job, port in targets.items()
    ]
    often = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": often, "scrape_configs": jobs}), encoding="utf-8")  # which is YAML, too
    port = free_port()
    flags = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = GuardedProcess([program("prometheus"), *flags], {}, folder / "prometheus.log")
    try:
        asked = Prometheus(port)
        assert wait_until(asked.is_up, timeout_s=SOON_S), (folder / "prometheus.log").read_text()
        yield asked
    finally:
        process.kill()
