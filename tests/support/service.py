"""The real service as a process of its own, as an operator starts it."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.processes import Reaper, ServerProcess

_URL = re.compile(r"API +http://localhost:(\d+)")
_TOKEN_FILE = re.compile(r"its token is in (\S+)")


class Service(ServerProcess):
    """``apishield serve`` on a free port; answers when the constructor returns."""

    def __init__(self, reaper: Reaper, directory: Path, environment: Mapping[str, str]) -> None:
        self.data_dir = directory / "data"
        self.port = 0
        settings = {"APISHIELD_PORT": "0", "APISHIELD_DATA_DIR": str(self.data_dir), **environment}
        super().__init__(
            reaper,
            [sys.executable, "-m", "apishield.cli", "serve"],
            self._is_ready,
            directory=directory,
            environment={"PATH": os.environ.get("PATH", os.defpath), "PYTHONUNBUFFERED": "1", **settings},
        )

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://localhost:{self.port}"

    @property
    def operator_token(self) -> str:
        """The operator's token that the first start has made."""
        found = _TOKEN_FILE.search(self.log)
        assert found is not None, self.log
        return Path(found[1]).read_text().strip()

    def sign_up(self, name: str = "My App") -> dict[str, Any]:
        """Makes a tenant; the answer of ``POST /v1/tenants``."""
        answer = httpx2.post(f"{self.url}/v1/tenants", json={"name": name, "plan": "starter"})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def start(self) -> None:
        """Starts it, on the port it had before."""
        if self.port:
            assert self._environment is not None
            self._environment = {**self._environment, "APISHIELD_PORT": str(self.port)}
        self._started_after = len(self.log)
        super().start()

    def interrupt(self) -> int:
        """Ends it as Ctrl-C does; returns the exit code."""
        return self._end(signal.SIGINT)

    def _is_ready(self) -> bool:
        found = _URL.search(self.log, self._started_after)
        self.port = int(found[1]) if found else self.port
        return found is not None


@pytest.fixture
def start_service(reaper: Reaper, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services, each with a data directory of its own, and ends them with the test.

    Settings are given as keyword arguments: ``start_service(REDIS_URL=redis_url, APISHIELD_WORKERS="2")``.
    """
    started: list[Service] = []

    def start(**environment: str) -> Service:
        directory = tmp_path / f"service-{len(started)}"
        directory.mkdir()
        service = Service(reaper, directory, environment)
        started.append(service)
        return service

    yield start
    for service in started:
        service.kill()


@pytest.fixture(scope="module")
def shared_service(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests of a module that need none to themselves: each makes a tenant of its own."""
    service = Service(reaper, tmp_path_factory.mktemp("service"), {})
    yield service
    service.kill()


def ready(url: str) -> bool:
    """Whether the service at ``url`` answers."""
    try:
        return httpx2.get(f"{url}/livez", timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False
