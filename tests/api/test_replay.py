"""``/v1/policies/replay``: a policy over the traffic that a real node has decided, spooled and taken into the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select

from apishield.bootstrap import SPOOL_DIRECTORY
from apishield.core.events import CountEvent
from apishield.core.model import SECOND_US
from apishield.services.drain import SpoolDrain
from apishield.services.ledger import LedgerService
from apishield.services.replay import MOST_RUNNING, ReplayService
from apishield.stores.spool import Spools
from apishield.stores.sql.tables import metadata
from tests.api.support import Json, Service, Tenant

PATH = "/v1/policies/replay"


@asynccontextmanager
async def draining(service: Service) -> AsyncIterator[SpoolDrain]:
    """What takes the events of the node into the ledger, when a test says so."""
    spools = Spools(service.runtime.settings.data_dir / SPOOL_DIRECTORY, max_bytes=2**26)
    ledger = LedgerService(service.runtime.database, service.clock)
    drain = SpoolDrain(spools, ledger, service.clock, owner="test")
    try:
        yield drain
    finally:
        spools.close()


async def taken_in(service: Service) -> None:
    """Waits until all that was decided is in the ledger."""
    service.runtime.events.flush()
    async with draining(service) as drain:
        await drain.catch_up()


async def checks(tenant: Tenant, count: int, **question: Any) -> list[Json]:
    """The same check so many times."""
    question = {"method": "GET", "path": "/v1/search", "ip": "192.0.2.1", **question}
    return [await tenant.ok("POST", "/v1/check", question) for _ in range(count)]


async def policy(tenant: Tenant, **fields: Any) -> Json:
    """A new policy."""
    made: Json = await tenant.ok("POST", "/v1/policies", {"name": "Searches", "per": ["ip"], **fields}, status=201)
    return made


async def test_a_limit_that_does_not_exist_yet_is_tried_out_on_what_was_recorded(
    service: Service, alice: Tenant
) -> None:
    await checks(alice, 7)
    await checks(alice, 3, ip="192.0.2.2")
    service.clock.advance(3600)
    await checks(alice, 6)
    await taken_in(service)
    service.clock.advance(1)
    done = await alice.ok("POST", PATH, {"limit": "4/minute", "per": ["ip"], "from": "now-24h"})
    assert done["status"] == "done"
    assert done["complete"]
    result = done["result"]
    assert (result["decisions"], result["of"], result["would_refuse"]) == (16, 16, 3 + 2)
    assert [(each["subject"], each["would_refuse"]) for each in result["subjects"]] == [({"ip": "192.0.2.1"}, 5)]
    assert [(hour["of"], hour["would_refuse"]) for hour in result["hours"]] == [(10, 3), (6, 2)]
    assert await alice.ok("GET", f"{PATH}/{done['id']}") == done


async def test_a_policy_of_the_tenants_refuses_in_a_replay_whom_it_refused(service: Service, alice: Tenant) -> None:
    made = await policy(alice, limit="4/minute", match={"path": "/v1/search*"})
    refused = [each for each in await checks(alice, 9) if not each["allowed"]]
    await checks(alice, 2, path="/elsewhere")
    await taken_in(service)
    service.clock.advance(1)
    result = (await alice.ok("POST", PATH, {"policy": made["id"], "from": "now-1h"}))["result"]
    assert result["would_refuse"] == len(refused) == 5
    assert (result["decisions"], result["of"], result["refused_already"]) == (11, 9, 0)
    looser = (await alice.ok("POST", PATH, {"policy": made["id"], "limit": "7/minute", "from": "now-1h"}))["result"]
    assert looser["would_refuse"] == 2  # what it refused itself is asked again, under the other numbers


async def test_what_others_refused_takes_no_part(service: Service, alice: Tenant) -> None:
    await alice.ok("POST", "/v1/blocklist", {"ip": "192.0.2.9"}, status=201)
    await checks(alice, 4, ip="192.0.2.9")
    await checks(alice, 2)
    await checks(alice, 1, cost=0)
    await taken_in(service)
    service.clock.advance(1)
    result = (await alice.ok("POST", PATH, {"limit": "1/minute", "per": ["tenant"], "from": "now-1h"}))["result"]
    assert (result["decisions"], result["refused_already"], result["of"], result["would_refuse"]) == (6, 4, 2, 1)


async def test_a_replay_charges_nobody_and_leaves_what_shadow_has_counted(service: Service, alice: Tenant) -> None:
    made = await policy(alice, limit="3/minute", mode="shadow")
    await checks(alice, 5)
    await taken_in(service)
    service.clock.advance(1)
    counters = len(service.runtime.store)  # type: ignore[arg-type]  # the memory store
    before = await alice.ok("GET", f"/v1/policies/{made['id']}/shadow")
    for _ in range(3):
        done = await alice.ok("POST", PATH, {"policy": made["id"], "from": "now-1h"})
        assert done["result"]["would_refuse"] == before["would_refuse"] == 2
    assert await alice.ok("GET", f"/v1/policies/{made['id']}/shadow") == before
    assert len(service.runtime.store) == counters  # type: ignore[arg-type]
    (decision,) = await checks(alice, 1)
    assert decision["shadow"][0]["remaining"] == 0
    assert decision["allowed"]


async def test_a_tenant_replays_its_own_traffic_only_and_sees_no_replay_of_another(
    service: Service, alice: Tenant, bob: Tenant
) -> None:
    made = await policy(alice, limit="1/minute")
    await checks(alice, 5)
    await taken_in(service)
    service.clock.advance(1)
    done = await bob.ok("POST", PATH, {"limit": "1/minute", "per": ["tenant"], "from": "now-1h"})
    assert done["result"]["decisions"] == 0
    await bob.problem(404, "not_found", "POST", PATH, {"policy": made["id"], "from": "now-1h"})
    hers = await alice.ok("POST", PATH, {"policy": made["id"], "from": "now-1h"})
    await bob.problem(404, "not_found", "GET", f"{PATH}/{hers['id']}")
    await bob.problem(404, "not_found", "DELETE", f"{PATH}/{hers['id']}")
    await alice.ok("DELETE", f"{PATH}/{hers['id']}", status=204)
    await alice.problem(404, "not_found", "GET", f"{PATH}/{hers['id']}")


async def test_a_flood_that_was_only_counted_is_told_of(service: Service, alice: Tenant) -> None:
    service.clock.advance(60 - service.clock.now_us / SECOND_US % 60)
    await checks(alice, 2)
    minute_us = service.clock.now_us
    service.runtime.events.append(CountEvent(minute_us, alice.id, "rate_limited", 0, 5000))
    await taken_in(service)
    service.clock.advance(120)
    done = await alice.ok("POST", PATH, {"limit": "1/minute", "per": ["ip"], "from": "now-1h"})
    assert done["only_counted"] == {"rate_limited": 5000}
    assert not done["complete"]
    assert done["result"]["would_refuse"] == 1


async def test_a_year_is_answered_with_the_days_that_are_kept(service: Service, alice: Tenant) -> None:
    await checks(alice, 2)
    await taken_in(service)
    service.clock.advance(1)
    done = await alice.ok("POST", PATH, {"limit": "1/minute", "from": "now-365d", "to": "now+365d"})
    assert not done["complete"]
    assert done["covered_from"] == "2026-11-11T11:06:41Z"
    assert done["result"]["decisions"] == 2
    too_old = await alice.problem(
        422, "validation_failed", "POST", PATH, {"limit": "1/minute", "from": "now-365d", "to": "now-300d"}
    )
    assert "7 days" in too_old["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"from": "now-1h"}, "/limit"),
        ({"limit": "1/minute"}, "/from"),
        ({"limit": "1/minute", "from": "yesterday"}, "/from"),
        ({"limit": "1/minute", "from": "now-1h", "to": "now-2h"}, "/to"),
        ({"limit": "1/minute", "from": "now+1h", "to": "now+2h"}, "/from"),
        ({"limit": "0/minute", "from": "now-1h"}, "/limit"),
        ({"policy": "key_1", "from": "now-1h"}, "/policy"),
        ({"limit": "1/minute", "per": ["shoe_size"], "from": "now-1h"}, "/per/0"),
        ({"limit": "1/minute", "match": {"path": "/a{b"}, "from": "now-1h"}, "/match/path"),
        ({"limit": {"strategy": "fixed_window", "requests": 1, "window_seconds": 10**9}, "from": "now-1h"}, None),
    ],
)
async def test_what_cannot_be_replayed_is_422_and_names_the_field(
    alice: Tenant, body: Json, pointer: str | None
) -> None:
    response = await alice.ask("POST", PATH, body)
    assert response.status_code == 422, response.text
    if pointer is not None:
        assert pointer in {error["pointer"] for error in response.json()["errors"]}


class Endless:
    """Decisions that never come, until a test lets them."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()

    async def scan(self, tenant_id: str, from_us: int, to_us: int, *, results: bool) -> AsyncGenerator[list[Any], None]:
        await self.goes_on.wait()
        for _ in ():
            yield []


@pytest.fixture
def endless(service: Service, monkeypatch: pytest.MonkeyPatch) -> Endless:
    source, runtime = Endless(), service.runtime
    slow = ReplayService(runtime.database, source, runtime.snapshot, service.clock, replay_days=7)
    begin = slow.begin

    async def impatient(*arguments: Any) -> Any:
        return await begin(*arguments, patience_seconds=0)

    monkeypatch.setattr(slow, "begin", impatient)
    monkeypatch.setattr(runtime, "replays", slow)
    return source


async def test_a_long_replay_is_202_and_any_node_tells_what_became_of_it(
    service: Service, alice: Tenant, endless: Endless
) -> None:
    response = await alice.ask("POST", PATH, {"limit": "1/minute", "from": "now-1h"})
    assert response.status_code == 202
    running = response.json()
    assert (running["status"], running["result"]) == ("running", None)
    assert response.headers["location"] == f"{PATH}/{running['id']}"
    task = service.runtime.replays._tasks[running["id"]]
    endless.goes_on.set()
    await task
    other_node = ReplayService(
        service.runtime.database, endless, service.runtime.snapshot, service.clock, replay_days=7
    )
    monkeypatched, service.runtime.replays = service.runtime.replays, other_node
    assert (await alice.ok("GET", response.headers["location"]))["status"] == "done"
    service.runtime.replays = monkeypatched


async def test_a_tenant_has_few_replays_under_way_and_others_are_not_held_up_by_it(
    alice: Tenant, bob: Tenant, endless: Endless
) -> None:
    body = {"limit": "1/minute", "from": "now-1h"}
    started = [await alice.ok("POST", PATH, body, status=202) for _ in range(MOST_RUNNING)]
    await alice.problem(422, "ceiling_reached", "POST", PATH, body)
    await bob.ok("POST", PATH, body, status=202)
    await alice.ok("DELETE", f"{PATH}/{started[0]['id']}", status=204)
    await alice.ok("POST", PATH, body, status=202)


async def test_a_shutdown_ends_replays_and_whoever_asks_is_told(
    service: Service, alice: Tenant, endless: Endless
) -> None:
    running = await alice.ok("POST", PATH, {"limit": "1/minute", "from": "now-1h"}, status=202)
    await service.runtime.replays.close()
    ended = await alice.ok("GET", f"{PATH}/{running['id']}")
    assert ended["status"] == "cancelled"
    assert "Ask again" in ended["error"]


async def test_a_replay_whose_node_died_is_shown_as_failed(service: Service, alice: Tenant, endless: Endless) -> None:
    running = await alice.ok("POST", PATH, {"limit": "1/minute", "from": "now-1h"}, status=202)
    service.clock.advance(31)
    assert (await alice.ok("GET", f"{PATH}/{running['id']}"))["status"] == "failed"
    assert (await alice.ok("POST", PATH, {"limit": "1/minute", "from": "now-1h"}, status=202))["status"] == "running"


async def test_only_the_newest_replays_are_kept(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apishield.services.replay.MOST_KEPT", 3)
    ids = []
    for _ in range(5):
        service.clock.advance(1)
        ids.append((await alice.ok("POST", PATH, {"limit": "1/minute", "from": "now-1h"}))["id"])
    async with service.runtime.database.engine.connect() as connection:
        kept = [row.id for row in await connection.execute(select(metadata.tables["replays"].c.id))]
    assert sorted(kept) == ids[2:]
