"""What a scrape says, and a real Prometheus for the tests."""

from __future__ import annotations

import contextlib
import math
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import Reaper, ServerProcess, free_port
from tests.support.services import find_tool

Samples = dict[tuple[str, ...], float]


def read_samples(content: bytes | str) -> Samples:
    """The values of a scrape, by name and the values of the labels (in the order of the labels' values)."""
    text = content if isinstance(content, str) else content.decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class PrometheusServer(ServerProcess):
    """A Prometheus that scrapes ``targets`` each second under the name that the rules and dashboards know."""

    def __init__(self, reaper: Reaper, targets: Sequence[str]) -> None:
        self.port = free_port()
        directory = reaper.make_directory()
        (directory / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"scrape_configs: [{{job_name: apishield, static_configs: [{{targets: {list(targets)}}}]}}]\n"
        )
        command = [find_prometheus("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        super().__init__(reaper, command, self._is_ready, directory=directory)

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """What the expression is at this moment: labels and value of each series. Fails where it can't be evaluated."""
        answer = httpx2.post(f"http://127.0.0.1:{self.port}/api/v1/query", data={"query": expression}, timeout=10)
        body: dict[str, Any] = answer.json()
        assert body["status"] == "success", (expression, body)
        assert body["data"]["resultType"] == "vector", expression
        return [(series["metric"], float(series["value"][1])) for series in body["data"]["result"]]

    def numbers(self, expression: str) -> list[float]:
        """The values of the expression that are numbers: a quantile of nothing is none."""
        return [value for _, value in self.query(expression) if not math.isnan(value)]

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"http://127.0.0.1:{self.port}/-/ready", timeout=2).status_code == 200
        return False


def promtool(*arguments: str, given: str | None = None) -> None:
    """Runs Prometheus' own checker; fails with what it found."""
    command = [find_prometheus("promtool"), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"


def find_prometheus(binary: str) -> str:
    """Prometheus or its tool; see ``find_tool``."""
    return str(find_tool(binary, package="prometheus"))
