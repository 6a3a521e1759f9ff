"""Traffic through a gateway, and what is known of it: for the tests of ``apishield report-log``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.support.processes import Reaper, ServerProcess, wait_until
from tests.support.service import Service


class Reporter(ServerProcess):
    """``apishield report-log``, which a test can kill and start again."""

    def __init__(self, reaper: Reaper, directory: Path, service: Service, service_key: str, log: Path) -> None:
        directory.mkdir()
        command = [sys.executable, "-m", "apishield.cli", "report-log", str(log)]
        command += ["--position-file", str(directory / "position")]
        environment = {"PATH": os.environ["PATH"], "APISHIELD_URL": service.url, "APISHIELD_API_KEY": service_key}
        super().__init__(reaper, command, lambda: True, directory=directory, environment=environment)


class Behind:
    """A tenant whose API is behind a gateway, and how to ask what is known of its traffic."""

    def __init__(self, service: Service) -> None:
        self.service = service
        made = service.sign_up("Behind a gateway")
        self.service_key: str = made["api_key"]["key"]
        self._headers = {"Authorization": f"Bearer {made['token']}"}
        answer = httpx2.post(
            f"{service.url}/v1/keys",
            headers=self._headers,
            json={"name": "caller", "scopes": ["read"], "rate_limit": "30/hour"},
        )
        self.caller: str = answer.json()["key"]

    def ask(self, gateway_url: str, path: str = "/orders") -> httpx2.Response:
        return httpx2.get(f"{gateway_url}{path}", headers={"X-API-Key": self.caller})

    def get(self, path: str) -> Any:
        try:
            return httpx2.get(f"{self.service.url}{path}", headers=self._headers, timeout=10).json()
        except httpx2.TransportError:  # the service is being restarted
            return {}

    def result(self, answer: httpx2.Response) -> dict[str, Any] | None:
        result: dict[str, Any] | None = self.get(f"/v1/decisions/{answer.headers['X-APIShield-Decision']}").get(
            "result"
        )
        return result

    def wait_for_results(self, count: int, explain: Callable[[], str] = str) -> dict[str, Any]:
        """The summary, once it knows of ``count`` results."""
        wait_until(
            lambda: self.get("/v1/analytics/summary").get("results", 0) >= count,
            f"{count} results",
            lambda: f"{self.get('/v1/analytics/summary')}\n{explain()}",
        )
        summary: dict[str, Any] = self.get("/v1/analytics/summary")
        return summary
