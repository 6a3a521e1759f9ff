"""The audit log: append-only, one hash chain a tenant."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Text, insert, select, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.audit_chain import (
    BREAK_ACTION,
    FIRST_ACTION,
    GENESIS,
    ChainKey,
    Head,
    end_fault,
    entry_mac,
    make_head,
    seal_fault,
)
from apishield.core.ids import new_id
from apishield.core.records import Actor, AuditEntry
from apishield.stores.sql.dialects import upsert
from apishield.stores.sql.pagination import Page, PageRequest, invalid_cursor, make_cursor, read_cursor
from apishield.stores.sql.repositories.base import row_of
from apishield.stores.sql.tables import audit_entries, audit_heads
from apishield.stores.sql.types import Document

SERVICE_CHAIN = "operator"
"""The chain of what the operator does for no tenant, such as a block for all."""

_ENTRIES_AT_ONCE = 500
_MARKER = Actor(id="apishield", role=None, tenant_id=None)

_log = logging.getLogger("apishield.audit")


class Event(msgspec.Struct, frozen=True):
    """What happened to what: ``key.updated``, the key's id, and the listed fields as they were and as they are."""

    action: str
    target: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


class AuditRepository:
    """Appends entries, reads them."""

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        key: ChainKey,
        now_us: int,
        entropy: Callable[[int], bytes],
        after_commit: Callable[[Callable[[], None]], None],
    ) -> None:
        self._connection = connection
        self._key = key
        self._now_us = now_us
        self._entropy = entropy
        self._after_commit = after_commit

    async def record(
        self,
        actor: Actor,
        *,
        action: str,
        target: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        tenant_id: str | None = None,
    ) -> None:
        """Appends one entry to the chain of the tenant (default: the actor's; where it has none, the service's own).

        ``before`` and ``after`` hold listed fields only: no secret, no metadata in clear. The chain's head is held from
        here to the end of the transaction, so call it after all other locks are taken.
        """
        await self.record_many(actor, [Event(action, target, before, after)], tenant_id=tenant_id)

    async def record_many(self, actor: Actor, events: Sequence[Event], *, tenant_id: str | None = None) -> None:
        """Appends an entry for each event, in order, as ``record`` does for one.

        Where the chain was tampered with, an entry that says so goes before them, and ``verify`` tells of it for ever: what
        is recorded next must neither hide a break, nor fail because of one.
        """
        if not events:
            return
        chain = tenant_id or actor.tenant_id or SERVICE_CHAIN
        head = await self._hold_head(chain)
        sequence, mac, fault = await self._end(chain, head, events[0].action)
        recorded = [(actor, event) for event in events]
        if fault is not None:
            _log.error("the audit log of %s was tampered with: %s", chain, fault)
            recorded.insert(0, (_MARKER, Event(BREAK_ACTION, chain, after={"reason": fault})))
        entries: list[AuditEntry] = []
        for who, event in recorded:
            sequence += 1
            entry = AuditEntry(
                id=new_id("aud", self._now_us, self._entropy),
                tenant_id=chain,
                sequence=sequence,
                at_us=self._now_us,
                actor=who.id,
                action=event.action,
                target=event.target,
                before=None if event.before is None else dict(event.before),
                after=None if event.after is None else dict(event.after),
                address=who.address,
                request_id=who.request_id,
                previous_mac=mac,
                mac="",
            )
            mac = entry_mac(self._key, entry)
            entries.append(msgspec.structs.replace(entry, mac=mac))
        head = make_head(self._key, chain, sequence, mac)
        await self._connection.execute(insert(audit_entries), [row_of(entry) for entry in entries])
        await self._connection.execute(update(audit_heads).where(audit_heads.c.tenant_id == chain).values(row_of(head)))
        # A number and MAC that left for another place can be held against the database: see ``audit verify --expect``.
        self._after_commit(partial(_log.info, "audit log: %s:%d:%s", chain, sequence, mac))

    async def _hold_head(self, chain: str) -> Head:
        # Inserts the head of a new chain, or locks the one that is there: both in one statement.
        statement = upsert(self._connection, audit_heads, ["tenant_id"], lambda new: {"tenant_id": new.tenant_id})
        unsealed = Head(chain, 0, GENESIS, "")
        row = await self._connection.execute(statement.returning(*audit_heads.c), row_of(unsealed))
        return Head(**row.one()._mapping)

    async def _end(self, chain: str, head: Head, next_action: str) -> tuple[int, str, str | None]:
        """Number and MAC of the entry that the next one follows, and what is wrong with the chain's end."""
        columns = audit_entries.c
        last = (
            await self._connection.execute(
                select(columns.sequence, columns.mac)
                .where(columns.tenant_id == chain, columns.sequence > 0)
                .order_by(columns.sequence.desc())
                .limit(1)
            )
        ).one_or_none()
        sequence, mac = (0, GENESIS) if last is None else (last.sequence, last.mac)
        if last is None and not head.seal and (next_action == FIRST_ACTION or chain == SERVICE_CHAIN):
            return sequence, mac, None
        if not head.seal:
            return sequence, mac, end_fault(chain, None, sequence, mac, self._key.of)
        fault = end_fault(chain, head, sequence, mac, self._key.of)
        if fault is not None and seal_fault(chain, head, self._key.of) is None:
            sequence = max(sequence, head.sequence)  # numbers that were given are not given again
        return sequence, mac, fault

    async def page(
        self,
        chain: str,
        page: PageRequest,
        *,
        actor_id: str | None = None,
        action: str | None = None,
        target: str | None = None,
        from_us: int | None = None,
        to_us: int | None = None,
    ) -> Page[AuditEntry]:
        """Entries, newest first. ``action`` may end in ``.*``; ``to_us`` is the first instant that is left out."""
        columns = audit_entries.c
        where: list[ColumnElement[bool]] = [columns.tenant_id == chain]
        if actor_id is not None:
            where.append(columns.actor == actor_id)
        if action is not None:
            family = action.removesuffix("*")
            where.append(
                columns.action == action if family == action else columns.action.startswith(family, autoescape=True)
            )
        if target is not None:
            where.append(columns.target == target)
        if from_us is not None:
            where.append(columns.at_us >= from_us)
        if to_us is not None:
            where.append(columns.at_us < to_us)
        if page.cursor is not None:
            place = read_cursor("audit", page.cursor)
            if not (place.isascii() and place.isdigit() and len(place) < 19):
                raise invalid_cursor()
            where.append(columns.sequence < int(place))
        statement = select(audit_entries).where(*where).order_by(columns.sequence.desc()).limit(page.limit + 1)
        found = [_entry(row) for row in await self._connection.execute(statement)]
        items = found[: page.limit]
        return Page(items, make_cursor("audit", str(items[-1].sequence)) if len(found) > len(items) else None)

    async def walk(self, chain: str) -> AsyncIterator[tuple[int, AuditEntry | None]]:
        """The whole chain, oldest first, with each entry's number; ``None`` for one whose row does not read as written."""
        ordered = select(*_AS_WRITTEN).where(audit_entries.c.tenant_id == chain).order_by(audit_entries.c.sequence)
        statement = ordered.limit(_ENTRIES_AT_ONCE)
        while True:
            rows = (await self._connection.execute(statement)).all()
            for row in rows:
                yield row.sequence, _entry_as_written(row)
            if len(rows) < _ENTRIES_AT_ONCE:
                return
            statement = ordered.where(audit_entries.c.sequence > rows[-1].sequence).limit(_ENTRIES_AT_ONCE)

    async def head(self, chain: str) -> Head | None:
        """Where the chain ends."""
        row = (
            await self._connection.execute(select(audit_heads).where(audit_heads.c.tenant_id == chain))
        ).one_or_none()
        return None if row is None else Head(**row._mapping)

    async def chains(self) -> list[str]:
        """The tenants that have a head or entries, and the service's own chain where it has."""
        heads = select(audit_heads.c.tenant_id)
        entries = select(audit_entries.c.tenant_id)
        return sorted(await self._connection.scalars(heads.union(entries)))


# The JSON columns as text: what the chain vouches for are the bytes, not what a parser makes of them.
_AS_WRITTEN = [type_coerce(c, Text).label(c.name) if isinstance(c.type, Document) else c for c in audit_entries.c]


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(**row._mapping)


def _entry_as_written(row: Row[Any]) -> AuditEntry | None:
    values = {name: getattr(row, name) for name in AuditEntry.__struct_fields__}
    try:
        values |= {"before": _json(row.before), "after": _json(row.after)}
        entry = msgspec.convert(values, AuditEntry)
    except msgspec.MsgspecError:
        return None
    faithful = _text(entry.before) == row.before and _text(entry.after) == row.after
    return entry if faithful else None


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
