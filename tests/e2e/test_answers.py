"""What became of decisions is told to whichever process answers, as often as callers like, and counts once everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

from tests.support.processes import wait_until
from tests.support.prometheus import Samples, read_samples
from tests.support.service import Service

DECISIONS, TIMES = 25, 6


def test_metrics_and_analytics_agree_on_results_that_several_processes_were_told(
    start_service: Callable[..., Service], redis_url: str
) -> None:
    service = start_service(REDIS_URL=redis_url, APISHIELD_WORKERS="2")
    tenant = service.sign_up()

    def post(path: str, body: Any) -> Any:
        """By a connection of its own, so that the kernel chooses the process."""
        credential = {"Authorization": f"Bearer {tenant['api_key']['key']}"}
        answer = httpx2.post(f"{service.url}{path}", headers=credential, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def samples() -> Samples:
        return read_samples(httpx2.get(f"{service.url}/metrics").text)

    decided = post("/v1/check/batch", {"checks": [{"method": "GET", "path": "/"}] * DECISIONS})["results"]
    told = [
        post("/v1/report", {"events": [{"decision_id": decision["decision_id"], "status": 200, "latency_ms": 1}]})
        for decision in decided
        for _ in range(TIMES)
    ]
    accepted = sum(answer["accepted"] for answer in told)
    assert sum(answer["accepted"] + answer["duplicates"] for answer in told) == DECISIONS * TIMES
    assert accepted >= DECISIONS
    wait_until(
        lambda: samples().get(("apishield_ledger_events_total",)) == DECISIONS + accepted, "the ledger to take all"
    )
    assert samples()["apishield_results_total", "2xx"] == DECISIONS
    assert samples()["apishield_result_seconds_count",] == DECISIONS
    assert samples()["apishield_ledger_duplicates_total",] == accepted - DECISIONS
    owner = {"Authorization": f"Bearer {tenant['token']}"}
    assert httpx2.get(f"{service.url}/v1/analytics/summary", headers=owner).json()["results"] == DECISIONS
