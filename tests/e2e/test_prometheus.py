"""A real Prometheus scrapes the service under load, and every question of the dashboards and the alert rules has an answer."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import promql_parser
import pytest

from apishield.clock import system_clock
from apishield.telemetry import Metrics
from apishield.telemetry.kafka import show_consumer, show_publisher
from apishield.workers.consume import ConsumerStats
from apishield.workers.publish import PublisherStats
from tests.support.grafana import Alert, Target, alerts, selectors, targets
from tests.support.processes import Reaper, descendants, wait_until
from tests.support.prometheus import PrometheusServer, Samples, promtool, read_samples
from tests.support.service import Service
from tests.support.services import RedisServer

PATIENCE_SECONDS = 30
SLOW_OR_REFUSED = {
    "APIShieldMostChecksRefused",  # this load is made of refusals
    # A machine with too much to do is late for a moment; it is their ``for`` that keeps these silent then.
    "APIShieldDecisionsSlow", "APIShieldSnapshotOld", "APIShieldProcessGone", "APIShieldLoopFailing", "APIShieldLedgerBehind",
    "APIShieldStoreDegraded", "APIShieldStoreFlapping", "APIShieldControlPlaneErrors",
}  # fmt: skip


class Load:
    """A tenant that lives: checks of every outcome, results, changes; round after round until it is stopped."""

    def __init__(self, url: str) -> None:
        self.rounds = 0
        self._client = httpx2.Client(base_url=url, timeout=20)
        made = self._post("/v1/tenants", {"name": "Busy", "plan": "starter"}, None)
        self._owner, self._service = made["token"], made["api_key"]["key"]
        limit = {"strategy": "fixed_window", "requests": 3, "window_seconds": 1}
        self._good = self._post("/v1/keys", {"name": "good"}, self._owner)["key"]
        self._limited = self._post("/v1/keys", {"name": "limited", "rate_limit": limit}, self._owner)["key"]
        self._read_only = self._post("/v1/keys", {"name": "reader", "scopes": ["read"]}, self._owner)["key"]
        shadow = {"name": "search", "match": {}, "per": ["ip"], "limit": limit, "mode": "shadow"}
        self._post("/v1/policies", shadow, self._owner)
        self._post("/v1/blocklist", {"ip": "203.0.113.66", "reason": "test"}, self._owner)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def round(self) -> None:
        """One of each."""
        where = {"method": "GET", "path": "/orders/1", "ip": "192.0.2.7"}
        allowed = [self._check(api_key=self._good, **where) for _ in range(5)]
        for _ in range(5):
            self._check(api_key=self._limited, **where)
        self._check(api_key=self._read_only, method="POST", path="/orders")
        self._check(api_key="sk_live_" + "A" * 36)
        self._check(ip="203.0.113.66")
        statuses = itertools.cycle((200, 200, 404, 500))
        events = [
            {"decision_id": decision["decision_id"], "status": status, "latency_ms": 12}
            for decision, status in zip(allowed, statuses, strict=False)
        ]
        self._post("/v1/report", {"events": events}, self._service)
        self._client.get("/v1/keys", headers={"Authorization": f"Bearer {self._owner}"})
        self.rounds += 1

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            with contextlib.suppress(httpx2.TransportError):  # a process that is killed takes its connections with it
                self.round()

    def _check(self, **question: Any) -> dict[str, Any]:
        return self._post("/v1/check", question, self._service)

    def _post(self, path: str, body: dict[str, Any], credential: str | None) -> dict[str, Any]:
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        answer = self._client.post(path, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        read: dict[str, Any] = answer.json()
        return read


@dataclass(frozen=True, slots=True)
class Watched:
    """Two nodes under load (one of three processes with Redis, one alone in memory), and the Prometheus that watches them."""

    prometheus: PrometheusServer
    cluster: Service
    redis: RedisServer


@pytest.fixture(scope="module")
def watched(reaper: Reaper, redis_server: RedisServer) -> Iterator[Watched]:
    redis_server.heal()
    with ExitStack() as stack:
        cluster = _service(
            stack, reaper, REDIS_URL=redis_server.url, APISHIELD_REDIS_TIMEOUT_MS="1000", APISHIELD_WORKERS="3"
        )
        alone = _service(stack, reaper)
        ports = [cluster.port, alone.port, stack.enter_context(_worker_with_kafka())]
        server = PrometheusServer(reaper, [f"127.0.0.1:{port}" for port in ports])
        stack.callback(server.kill)
        for service in (cluster, alone):
            load = Load(service.url)
            stack.callback(load.stop)
        yield Watched(server, cluster, redis_server)


@contextmanager
def _worker_with_kafka() -> Iterator[int]:
    """Stands in for a worker with Kafka, whose brokers take long to start: the real numbers, of a worker that does nothing."""
    metrics = Metrics()
    show_publisher(metrics, PublisherStats(), system_clock)
    show_consumer(metrics, ConsumerStats(lag={0: 0, 1: 0}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, media_type = metrics.render()
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _service(stack: ExitStack, reaper: Reaper, **environment: str) -> Service:
    service = Service(reaper, reaper.make_directory(), environment)
    stack.callback(service.kill)
    return service


@pytest.mark.parametrize("target", list(targets()), ids=str)
def test_every_panel_shows_data(watched: Watched, target: Target) -> None:
    _wait_for_data(watched, target.expression)


def test_every_metric_that_an_alert_watches_is_there(watched: Watched) -> None:
    asked = [selector for alert in alerts() for selector in selectors(promql_parser.parse(alert.expression))]
    for selector in asked:
        if '"5.."' not in selector.text:  # answers of a kind that a healthy node does not give
            _wait_for_data(watched, selector.text)


def _wait_for_data(watched: Watched, expression: str) -> None:
    wait_until(
        lambda: bool(watched.prometheus.numbers(expression)), f"data for {expression}", timeout_seconds=PATIENCE_SECONDS
    )


@pytest.mark.parametrize("alert", [alert for alert in alerts() if alert.name not in SLOW_OR_REFUSED], ids=str)
def test_no_alert_fires_on_healthy_nodes(watched: Watched, alert: Alert) -> None:
    assert watched.prometheus.query(alert.expression) == []


def test_a_scrape_is_as_prometheus_wants_it(watched: Watched) -> None:
    promtool("check", "metrics", given=httpx2.get(f"{watched.cluster.url}/metrics").text)


def test_whichever_process_answers_shows_all_of_them_and_no_less_than_the_one_before(watched: Watched) -> None:
    wait_until(
        lambda: {"api-1", "api-2", "api-3", "ledger-1"} <= _processes(_scrape(watched.cluster)),
        "all processes to be shown",
        lambda: watched.cluster.log,
        PATIENCE_SECONDS,
    )
    seen = 0.0
    for _ in range(15):
        shown = _scrape(watched.cluster)["apishield_checks_total", "ok"]
        assert shown >= seen
        seen = shown


def test_what_a_killed_process_counted_stays_counted(watched: Watched) -> None:
    """The supervisor starts another in its place, which counts on."""
    before = _scrape(watched.cluster)["apishield_checks_total", "ok"]
    api_processes = [pid for pid in descendants(watched.cluster.pid) if b"spawn_main" in _command(pid)]
    os.kill(api_processes[0], signal.SIGKILL)
    for _ in range(10):
        assert _scrape(watched.cluster)["apishield_checks_total", "ok"] >= before


def _scrape(service: Service) -> Samples:
    """By a connection of its own, so that the kernel chooses the process."""
    with httpx2.Client(transport=httpx2.HTTPTransport(retries=3)) as client:
        return read_samples(client.get(f"{service.url}/metrics").text)


def _processes(samples: Samples) -> set[str]:
    return {key[1] for key in samples if key[0] == "apishield_process_up"}


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_alert_that_redis_is_gone_fires_while_it_is(watched: Watched) -> None:
    alert = next(alert for alert in alerts() if alert.name == "APIShieldStoreDegraded")
    watched.redis.stop()
    try:
        wait_until(
            lambda: bool(watched.prometheus.query(alert.expression)), alert.name, timeout_seconds=PATIENCE_SECONDS
        )
    finally:
        watched.redis.cont()
    wait_until(
        lambda: not watched.prometheus.query(alert.expression), "Redis to be back", timeout_seconds=PATIENCE_SECONDS
    )
