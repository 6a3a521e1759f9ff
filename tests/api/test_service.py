"""The service itself: alive, ready, its numbers, its version, its documentation; and who may look inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from apishield import __version__
from apishield.api import readiness
from apishield.api.routers.docs import ASSETS
from apishield.stores.ledger_deaths import LedgerDeaths, note_deaths
from apishield.stores.spool import writer
from tests.api.support import Caller, Service, Tenant, serving
from tests.support.clock import ManualClock


async def test_a_node_is_alive_whatever_its_database_does(service: Service) -> None:
    await service.runtime.database.close()
    assert await service.nobody.ok("GET", "/livez") == {"status": "ok"}


async def test_a_node_that_keeps_up_is_ready(service: Service) -> None:
    assert await service.nobody.ok("GET", "/readyz") == {"status": "ready", "reasons": [], "warnings": []}


async def test_a_node_with_an_old_snapshot_is_not_ready_and_says_why(service: Service) -> None:
    service.clock.advance(5)
    await service.nobody.ok("GET", "/readyz")
    service.clock.advance(1)
    answer = await service.nobody.ok("GET", "/readyz", status=503)
    assert answer["status"] == "not_ready"
    assert "6 seconds ago" in answer["reasons"][0]


async def test_a_node_without_its_database_is_not_ready(service: Service, tmp_path: Path) -> None:
    for part in tmp_path.glob("apishield.db*"):
        part.write_bytes(b"no database any more" * 1000)
    answer = await service.nobody.ok("GET", "/readyz", status=503)
    assert len(answer["reasons"]) == 1


async def test_a_node_that_never_reached_its_redis_says_so_before_anybody_asks_a_check(
    tmp_path: Path, clock: ManualClock, redis_url: str
) -> None:
    async with serving(tmp_path / "a", clock, redis_url="redis://127.0.0.1:1/0") as service:
        answer = await service.nobody.ok("GET", "/readyz")
        assert answer["status"] == "ready"
        assert answer["warnings"][0].startswith("Redis can't be reached")
    async with serving(tmp_path / "b", clock, redis_url=redis_url, redis_timeout_ms=1000) as service:
        assert (await service.nobody.ok("GET", "/readyz"))["warnings"] == []


async def test_a_node_whose_disk_is_full_stays_ready_and_says_that_reports_are_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.runtime.events._overflow, "is_written", False)
    answer = await service.nobody.ok("GET", "/readyz")
    assert answer["status"] == "ready"
    (warning,) = answer["warnings"]
    assert "disk" in warning
    assert "507 storage_full" in warning


async def test_a_full_disk_is_told_before_anything_was_written_to_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "FULL_BELOW_BYTES", 2**80)
    (warning,) = (await service.nobody.ok("GET", "/readyz"))["warnings"]
    assert str(service.runtime.settings.data_dir) in warning


async def test_a_full_spool_that_takes_no_results_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_KEPT", 0)
    (warning,) = (await service.nobody.ok("GET", "/readyz"))["warnings"]
    assert "spool" in warning
    assert service.runtime.events.stats.lost_results == 0, "to ask is not to lose"


@pytest.mark.parametrize(
    ("exit_code", "how"), [(3, "with exit code 3"), (-9, "by SIGKILL"), (None, "because it could not be started")]
)
async def test_a_node_whose_ledger_process_dies_again_and_again_stays_ready_and_says_so(
    service: Service, exit_code: int | None, how: str
) -> None:
    note_deaths(service.runtime.settings.data_dir, LedgerDeaths(1, exit_code))
    assert (await service.nobody.ok("GET", "/readyz"))["warnings"] == [], "once may be chance"
    note_deaths(service.runtime.settings.data_dir, LedgerDeaths(4, exit_code))
    answer = await service.nobody.ok("GET", "/readyz")
    assert answer["status"] == "ready"
    assert f"the ledger process died 4 times in a row, last {how}" in answer["warnings"][0]


async def test_reasons_and_metrics_are_for_the_machine_itself_and_the_operator(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with serving(tmp_path, clock, host="0.0.0.0") as service:
        outside = service.client_at("http://limits.example", "203.0.113.9")
        same_machine = Caller(service.client_at("http://localhost:8000", "127.0.0.1"))
        await same_machine.problem(401, "token_missing", "GET", "/metrics")  # a proxy on it would look just so
        stranger, operator = Caller(outside), Caller(outside, service.operator.token)
        assert await stranger.ok("GET", "/readyz") == {"status": "ready", "reasons": None, "warnings": None}
        await stranger.problem(401, "token_missing", "GET", "/metrics")
        assert await operator.ok("GET", "/readyz") == {"status": "ready", "reasons": [], "warnings": []}
        assert (await operator.ask("GET", "/metrics")).status_code == 200
        tenant = await service.tenant()
        owner = Caller(outside, tenant.secret)
        assert (await owner.ok("GET", "/readyz"))["reasons"] is None
        assert (await owner.ask("GET", "/metrics")).status_code == 401


async def test_metrics_are_what_prometheus_reads_and_name_no_key(service: Service, alice: Tenant) -> None:
    made = await alice.key()
    await Caller(service.client, alice.service_key).ok("POST", "/v1/check", {"api_key": made["key"]})
    await alice.ok("GET", f"/v1/keys/{made['id']}")
    response = await service.nobody.ask("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert 'apishield_checks_total{code="ok"} 1.0' in response.text
    assert 'apishield_http_requests_total{method="GET",route="/v1/keys/{key_id}",status="200"} 1.0' in response.text
    assert made["id"] not in response.text


async def test_the_version_is_told(service: Service) -> None:
    assert (await service.nobody.ok("GET", "/version"))["version"] == __version__


async def test_the_documentation_needs_no_other_site(service: Service) -> None:
    page = await service.nobody.ask("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    for name in (*ASSETS, "start.js"):
        assert f"/docs/{name}" in page.text
        asset = await service.nobody.ask("GET", f"/docs/{name}")
        assert asset.status_code == 200
        assert asset.content
    await service.nobody.problem(404, "not_found", "GET", "/docs/other.js")
    assert "script-src 'self';" in page.headers["content-security-policy"]
