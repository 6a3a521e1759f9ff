"""Up to where each stream was taken, and by whom. What fences a worker that was replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.dialects import upsert
from apishield.stores.sql.ledger.tables import ledger_marks, ledger_positions


class Claim(msgspec.Struct, frozen=True):
    """The right to take ``stream`` from ``position`` on, until somebody claims it with a higher ``epoch``."""

    stream: str
    position: int
    epoch: int


class Fenced(Exception):  # noqa: N818  said as the plan of the ledger says it
    """The claim is stale: another worker holds the stream, or it was taken further than the caller knew. Claim it again."""


class Positions:
    """Positions of streams, within one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(self, stream: str, owner: str, now_us: int) -> Claim:
        """Makes ``owner`` the only one who may take ``stream``; a new one begins at 0."""
        table = ledger_positions.c
        statement = upsert(
            self._connection,
            ledger_positions,
            ["stream"],
            lambda new: {"epoch": table.epoch + 1, "owner": new.owner, "at_us": new.at_us},
        ).returning(table.position, table.epoch)
        row = {"stream": stream, "position": 0, "epoch": 1, "owner": owner, "at_us": now_us}
        position, epoch = (await self._connection.execute(statement, row)).one()
        return Claim(stream, position, epoch)

    async def advance(self, claim: Claim, start: int, end: int, now_us: int) -> None:
        """Moves the stream from ``start`` to ``end``. Raises ``Fenced`` where it isn't there, or is another's."""
        table = ledger_positions.c
        statement = (
            update(ledger_positions)
            .where(table.stream == claim.stream, table.epoch == claim.epoch, table.position == start)
            .values(position=end, at_us=now_us)
        )
        if (await self._connection.execute(statement)).rowcount != 1:
            message = f"{claim.stream} is not at {start} any more, or was claimed by another worker"
            raise Fenced(message)

    async def marks(self, stream: str) -> dict[int, int]:
        """For each spool the end of the last frame that was taken from ``stream``."""
        statement = select(ledger_marks.c.spool, ledger_marks.c.position).where(ledger_marks.c.stream == stream)
        rows = await self._connection.execute(statement)
        return {row.spool: row.position for row in rows}

    async def mark(self, stream: str, marks: Mapping[int, int], now_us: int) -> None:
        """Notes the ends of the last frames that were taken."""
        if marks:
            statement = upsert(
                self._connection,
                ledger_marks,
                ["stream", "spool"],
                lambda new: {"position": new.position, "at_us": new.at_us},
            )
            rows = [
                {"stream": stream, "spool": spool, "position": marks[spool], "at_us": now_us} for spool in sorted(marks)
            ]
            await self._connection.execute(statement, rows)

    async def forget(self, *, before_us: int) -> None:
        """Forgets streams and spools that were not heard of since."""
        await self._connection.execute(delete(ledger_positions).where(ledger_positions.c.at_us < before_us))
        await self._connection.execute(delete(ledger_marks).where(ledger_marks.c.at_us < before_us))

    async def all(self) -> Iterable[tuple[str, int, int]]:
        """Each stream, its position, and when it last moved."""
        table = ledger_positions.c
        rows = await self._connection.execute(select(table.stream, table.position, table.at_us).order_by(table.stream))
        return [(stream, position, at_us) for stream, position, at_us in rows]

    async def newest_us(self) -> int | None:
        """When any stream last moved."""
        newest: int | None = await self._connection.scalar(select(func.max(ledger_positions.c.at_us)))
        return newest
