"""A real Envoy asks about each request and writes down what was answered, with the configuration of ``infra/envoy``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.envoy import Envoy
from tests.support.gateways import Behind, Reporter
from tests.support.processes import Reaper, wait_until
from tests.support.service import Service

STATUSES = {"/missing": 404, "/broken": 500}


class Api(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(STATUSES.get(self.path, 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def behind(start_service: Callable[..., Service]) -> Behind:
    return Behind(start_service())


@pytest.fixture
def envoy(behind: Behind, reaper: Reaper, tmp_path: Path, api_port: int) -> Iterator[Envoy]:
    directory = tmp_path / "envoy"
    directory.mkdir()
    envoy = Envoy(reaper, directory, behind.service, behind.service_key, api_port)
    yield envoy
    envoy.kill()


def test_what_envoy_lets_through_and_what_was_answered(
    behind: Behind, envoy: Envoy, reaper: Reaper, tmp_path: Path
) -> None:
    answers = [behind.ask(envoy.url, path) for path in ("/orders?page=2", "/missing", "/broken")]
    assert [answer.status_code for answer in answers] == [200, 404, 500]
    assert answers[0].headers["RateLimit"].startswith('"default";r=29;t=')
    answers += [behind.ask(envoy.url) for _ in range(27)]
    refused = behind.ask(envoy.url)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert 0 < int(refused.headers["Retry-After"]) <= 3600
    assert httpx2.get(envoy.url, headers={"X-API-Key": "sk_live_nonsense"}).status_code == 401
    assert behind.ask(envoy.url, "/a%2fb").status_code == 400

    reporter = Reporter(reaper, tmp_path / "reporter", behind.service, behind.service_key, envoy.results)
    summary = behind.wait_for_results(30, lambda: reporter.log)
    assert reporter.terminate() == 0
    assert reporter.log.endswith("30 results reported\n")
    lines = [json.loads(line) for line in envoy.results.read_text().splitlines()]
    logged = {line["decision"]: line for line in lines if line["decision"] is not None}
    assert logged.keys() == {answer.headers["X-APIShield-Decision"] for answer in answers}
    assert (summary["results"], summary["errors"]) == (30, 1)
    assert summary["statuses"] == {"1xx": 0, "2xx": 28, "3xx": 0, "4xx": 1 + 2, "5xx": 1}
    assert summary["bytes"] == sum(len(answer.content) for answer in answers)
    for answer in answers[:3]:
        result = behind.result(answer)
        assert result is not None
        assert (result["status"], result["bytes"]) == (answer.status_code, len(answer.content))
        assert result["latency_ms"] == logged[answer.headers["X-APIShield-Decision"]]["milliseconds"]
    assert behind.result(refused) is None


def test_nobody_speaks_for_envoy_and_nothing_gets_in_while_nobody_can_be_asked(behind: Behind, envoy: Envoy) -> None:
    forged = {
        "X-APIShield-Token": "sk_live_forged",
        "X-APIShield-Client-IP": "198.51.100.9",
        "X-APIShield-Decision": "dec_forged",
        "X-Original-URI": "/free",
    }
    answer = httpx2.get(f"{envoy.url}/orders", headers={"X-API-Key": behind.caller, **forged})
    assert answer.status_code == 200
    assert [name for name in answer.json() if name.startswith("x-apishield")] == []
    decision: dict[str, Any] = {}
    path = f"/v1/decisions/{answer.headers['X-APIShield-Decision']}"
    wait_until(lambda: decision.update(behind.get(path)) or "ip" in decision, "the decision to be in the ledger")
    assert (decision["ip"], decision["path"]) == ("127.0.0.1", "/orders")
    behind.service.kill()
    assert behind.ask(envoy.url).status_code == 503
