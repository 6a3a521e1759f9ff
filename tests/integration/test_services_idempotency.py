"""Idempotency: once, for one tenant, credential and route; and its answers open only to whoever has both halves."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from apishield.core.records import Actor, Role
from apishield.errors import ProblemError
from apishield.services.idempotency import KEPT_US, Answer, Replay, Started
from apishield.stores.sql.database import Database
from tests.support.clock import ManualClock
from tests.support.control_plane import OPERATOR, ControlPlane
from tests.support.database import SECRETS
from tests.support.services import PostgresServer

ACTOR = Actor(id="tok_1", role=Role.OWNER, tenant_id="ten_1")
CREDENTIAL = "ast_canary-credential"
ANSWER = Answer(status=201, media_type="application/json", body=b'{"key": "sk_live_canary"}')


async def begin(
    plane: ControlPlane,
    actor: Actor = ACTOR,
    *,
    credential: str = CREDENTIAL,
    route: str = "POST /v1/keys",
    key: str = "key-1",
    digest: bytes = b"request",
) -> Replay | Started:
    return await plane.idempotency.begin(
        actor, credential=credential, route=route, idempotency_key=key, request_digest=digest
    )


async def answered(plane: ControlPlane) -> None:
    first = await begin(plane)
    assert isinstance(first, Started)
    await plane.idempotency.finish(first, ANSWER)


async def test_the_first_answer_is_given_again_byte_for_byte(plane: ControlPlane) -> None:
    await answered(plane)
    for _ in range(2):
        assert await begin(plane) == Replay(status=201, media_type="application/json", body=ANSWER.body)


async def test_another_request_under_the_same_key_is_refused(plane: ControlPlane) -> None:
    await answered(plane)
    with pytest.raises(ProblemError) as caught:
        await begin(plane, digest=b"other")
    assert caught.value.code == "idempotency_mismatch"


async def test_of_many_at_once_one_runs_and_the_others_are_told_to_wait(plane: ControlPlane) -> None:
    results = await asyncio.gather(*(begin(plane) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, Started) for result in results) == 1
    refused = [result for result in results if isinstance(result, ProblemError)]
    assert [problem.code for problem in refused] == ["idempotency_in_progress"] * 7


async def test_a_request_that_was_cut_off_is_never_run_again(plane: ControlPlane) -> None:
    assert isinstance(await begin(plane), Started)
    plane.clock.now_us += KEPT_US - 1
    with pytest.raises(ProblemError, match="Look whether it took effect") as caught:
        await begin(plane)
    assert caught.value.code == "idempotency_in_progress"


async def test_a_request_that_took_no_effect_may_be_sent_again(plane: ControlPlane) -> None:
    first = await begin(plane)
    assert isinstance(first, Started)
    await plane.idempotency.abandon(first)
    assert isinstance(await begin(plane, digest=b"corrected"), Started)


async def test_an_answer_that_was_given_is_never_abandoned(plane: ControlPlane) -> None:
    first = await begin(plane)
    assert isinstance(first, Started)
    await plane.idempotency.finish(first, ANSWER)
    await plane.idempotency.abandon(first)
    assert isinstance(await begin(plane), Replay)


async def test_an_answer_is_kept_a_day(plane: ControlPlane) -> None:
    await answered(plane)
    plane.clock.now_us += KEPT_US - 1
    assert isinstance(await begin(plane), Replay)
    plane.clock.now_us += 1
    assert isinstance(await begin(plane, digest=b"other"), Started)


@pytest.mark.parametrize(
    "other",
    [
        {"actor": msgspec.structs.replace(ACTOR, tenant_id="ten_2")},
        {"actor": msgspec.structs.replace(ACTOR, id="tok_2")},
        {"actor": OPERATOR},
        {"credential": "ast_of_a_stranger"},
        {"route": "POST /v1/tokens"},
        {"key": "key-2"},
        {"key": "ключ-\ud800"},
    ],
)
async def test_a_stranger_a_route_and_a_key_each_have_their_own(plane: ControlPlane, other: dict[str, object]) -> None:
    await answered(plane)
    assert isinstance(await begin(plane, **other), Started)  # type: ignore[arg-type]


async def test_what_is_expired_is_removed(plane: ControlPlane) -> None:
    await answered(plane)
    plane.clock.now_us += KEPT_US
    async with plane.database.transaction() as tx:
        await tx.idempotency.forget(now_us=tx.now_us)
        assert (await tx.connection.exec_driver_sql("SELECT count(*) FROM idempotency")).scalar_one() == 0


async def test_nothing_in_the_row_can_be_read(plane: ControlPlane) -> None:
    await answered(plane)
    async with plane.database.read() as tx:
        row = (await tx.connection.exec_driver_sql("SELECT * FROM idempotency")).one()
    stored = b"".join(bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode() for value in row)
    for canary in (b"canary", b"key-1", CREDENTIAL.encode(), b"request"):
        assert canary not in stored


async def test_a_request_whose_answer_could_not_be_kept_is_not_said_to_have_changed_nothing(
    postgres_url: str, postgres_server: PostgresServer, clock: ManualClock
) -> None:
    database = Database(postgres_url, clock, audit_key=SECRETS.audit_key())
    await database.migrate()
    plane = ControlPlane(database, clock)
    first = await begin(plane)
    assert isinstance(first, Started)
    postgres_server.kill()
    with pytest.raises(ProblemError, match="not known whether") as caught:
        await plane.idempotency.finish(first, ANSWER)
    assert caught.value.code == "database_unavailable"
    postgres_server.heal()
    with pytest.raises(ProblemError) as caught:
        await begin(plane)
    assert caught.value.code == "idempotency_in_progress"
    await database.close()
