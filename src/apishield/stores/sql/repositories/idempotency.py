"""First requests under an Idempotency-Key, and their sealed answers."""

from __future__ import annotations

import msgspec
from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.dialects import upsert
from apishield.stores.sql.tables import idempotency


class Slot(msgspec.Struct, frozen=True):
    """Where a request's answer lies: tenant (empty for an operator who named none), credential, route, key's digest."""

    tenant_id: str
    credential_id: str
    route: str
    key_digest: bytes


class FirstRequest(msgspec.Struct, frozen=True):
    """What is remembered of the first request; ``answer`` is ``None`` until it was answered."""

    request_digest: bytes
    answer: bytes | None


class IdempotencyRepository:
    """Slots: taken once, answered once, forgotten when they expire."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take(self, slot: Slot, request_digest: bytes, *, now_us: int, expires_at_us: int) -> bool:
        """Takes the slot, unless it is taken and has not expired. One of two at once takes it."""
        statement = upsert(
            self._connection,
            idempotency,
            ["tenant_id", "credential_id", "route", "key_digest"],
            lambda new: {
                "request_digest": new.request_digest,
                "answer": None,
                "created_at_us": new.created_at_us,
                "expires_at_us": new.expires_at_us,
            },
            where=lambda new: idempotency.c.expires_at_us <= new.created_at_us,
        ).returning(idempotency.c.created_at_us)
        row = {
            "tenant_id": slot.tenant_id,
            "credential_id": slot.credential_id,
            "route": slot.route,
            "key_digest": slot.key_digest,
            "request_digest": request_digest,
            "answer": None,
            "created_at_us": now_us,
            "expires_at_us": expires_at_us,
        }
        return (await self._connection.execute(statement, row)).one_or_none() is not None

    async def get(self, slot: Slot) -> FirstRequest | None:
        """The first request of the slot."""
        statement = select(idempotency.c.request_digest, idempotency.c.answer).where(_is(slot))
        row = (await self._connection.execute(statement)).one_or_none()
        if row is None:
            return None
        return FirstRequest(bytes(row.request_digest), None if row.answer is None else bytes(row.answer))

    async def answer(self, slot: Slot, answer: bytes) -> None:
        """Keeps the answer of the slot's request."""
        await self._connection.execute(update(idempotency).where(_is(slot)).values(answer=answer))

    async def free(self, slot: Slot) -> None:
        """Frees a slot whose request took no effect."""
        await self._connection.execute(delete(idempotency).where(_is(slot), idempotency.c.answer.is_(None)))

    async def forget(self, *, now_us: int) -> None:
        """Removes what has expired."""
        await self._connection.execute(delete(idempotency).where(idempotency.c.expires_at_us <= now_us))


def _is(slot: Slot) -> ColumnElement[bool]:
    return and_(
        idempotency.c.tenant_id == slot.tenant_id,
        idempotency.c.credential_id == slot.credential_id,
        idempotency.c.route == slot.route,
        idempotency.c.key_digest == slot.key_digest,
    )
