"""Usage to take away: whole, safe to open in a spreadsheet, and in pieces, so that its length costs no memory."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

import pytest

from apishield.api.routers import export as export_router
from apishield.services.analytics import export
from tests.api.support import Json, Service, Tenant
from tests.api.test_analytics_queries import check, report


async def use(tenant: Tenant, keys: int) -> list[Json]:
    """Keys with formulas for names, each used once more often than the one before."""
    made = []
    for number in range(keys):
        key = await tenant.key(name=f"=1+{number}")
        for _ in range(number + 1):
            decision = await check(
                tenant, api_key=key["key"], method="GET", path="/x", cost={"requests": 1, "tokens": 5}
            )
        await report(tenant, decision, bytes=10)
        made.append(key)
    return made


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


async def test_csv_has_a_row_for_each_key_with_all_units(alice: Tenant) -> None:
    keys = await use(alice, 3)
    response = await alice.ask("GET", "/v1/usage/export?format=csv&group_by=key")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == (
        'attachment; filename="usage-by-key-20261117T1106Z-20261118T1107Z.csv"'
    )
    rows = {row["key_id"]: row for row in read(response.text)}
    assert rows.keys() == {key["id"] for key in keys}
    third = rows[keys[2]["id"]]
    assert third["key_name"] == "'=1+2"
    assert (third["requests"], third["allowed"], third["refused"], third["results"], third["bytes"]) == (
        "3", "3", "0", "1", "10",
    )  # fmt: skip
    assert (third["cost_requests"], third["cost_tokens"]) == ("3", "15")


async def test_json_has_the_same(alice: Tenant) -> None:
    keys = await use(alice, 2)
    rows: Any = await alice.ok("GET", "/v1/usage/export?format=json&group_by=key")
    second = next(row for row in rows if row["key_id"] == keys[1]["id"])
    assert second["key_name"] == "=1+1"  # no spreadsheet reads JSON
    assert second["cost"] == {"requests": 2, "tokens": 10}


@pytest.mark.parametrize("group_by", ["key", "customer", "endpoint", "day", "key,day", "customer,day", "endpoint,day"])
async def test_every_grouping_adds_up_to_the_same(service: Service, alice: Tenant, group_by: str) -> None:
    await use(alice, 2)
    await service.later(86_400)
    await check(alice, method="POST", path="/y", ip="203.0.113.7")
    rows = read((await alice.ask("GET", f"/v1/usage/export?group_by={group_by}&from=now-7d")).text)
    assert sum(int(row["requests"]) for row in rows) == 4
    assert sum(int(row["cost_requests"]) for row in rows) == 4
    if "day" in group_by:
        assert {row["day"] for row in rows} == {"2026-11-18", "2026-11-19"}


async def test_an_export_of_many_pages_has_every_row_once_and_in_order(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_GROUPS_AT_ONCE", 2)
    keys = await use(alice, 5)
    rows = read((await alice.ask("GET", "/v1/usage/export")).text)
    assert [row["key_id"] for row in rows] == sorted(key["id"] for key in keys)
    assert len(await alice.ok("GET", "/v1/usage/export?format=json")) == 5


async def test_an_export_of_nothing_is_whole(bob: Tenant) -> None:
    assert len((await bob.ask("GET", "/v1/usage/export")).text.splitlines()) == 1
    assert await bob.ok("GET", "/v1/usage/export?format=json") == []


async def test_the_head_is_sent_before_the_first_row_is_read_and_a_reader_who_goes_ends_the_export(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_GROUPS_AT_ONCE", 1)
    await use(alice, 4)
    looked: list[int] = []
    whole = export._page

    async def counted(*arguments: Any) -> Any:
        looked.append(len(sent))
        return await whole(*arguments)

    monkeypatch.setattr(export, "_page", counted)
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])
            if len(sent) == 3:
                raise OSError("broken pipe")

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": "/v1/usage/export", "raw_path": b"/v1/usage/export", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {alice.token}".encode())],
        "client": ("127.0.0.1", 5), "server": ("localhost", 8000),
    }  # fmt: skip
    await service.app(scope, receive, send)
    assert sent[0].startswith(b"key_id,key_name")
    assert looked == [1, 2]  # the head was out before the first page, and nothing was read for the third


def scope_of(tenant: Tenant) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": "/v1/usage/export", "raw_path": b"/v1/usage/export", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {tenant.token}".encode())],
        "client": ("127.0.0.1", 5), "server": ("localhost", 8000),
    }  # fmt: skip


async def test_an_export_that_nobody_reads_ends_and_others_are_refused_while_it_holds_the_last_place(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_router, "_READ_WITHIN_SECONDS", 0.3)
    monkeypatch.setattr(service.runtime.analytics.exports, "of_tenant", 1)
    begun, never, asked = asyncio.Event(), asyncio.Event(), False

    async def send(message: Any) -> None:
        begun.set()
        await never.wait()

    async def receive() -> Any:
        nonlocal asked
        if asked:
            await never.wait()
        asked = True
        return {"type": "http.request", "body": b""}

    task: asyncio.Task[None] = asyncio.create_task(service.app(scope_of(alice), receive, send))  # type: ignore[arg-type]
    await begun.wait()
    problem = await alice.problem(429, "concurrency_exceeded", "GET", "/v1/usage/export")
    assert "1 exports under way" in problem["detail"]
    await asyncio.wait_for(task, 10)
    assert service.runtime.analytics.exports.taken == 0
    assert (await alice.ask("GET", "/v1/usage/export")).status_code == 200


async def test_a_status_cannot_be_exported_by(alice: Tenant) -> None:
    problem = await alice.problem(422, "validation_failed", "GET", "/v1/usage/export?status=5xx")
    assert problem["errors"][0]["pointer"] == "?status"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_begins_as_a_formula_does(cell: str) -> None:
    from apishield.api.routers.export import plain_cell

    assert plain_cell(cell) == "'" + cell
    assert plain_cell("plain") == "plain"
