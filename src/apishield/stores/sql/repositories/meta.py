"""What the service remembers about itself, and which nodes live."""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.dialects import upsert
from apishield.stores.sql.tables import meta, nodes


class MetaRepository:
    """Names with values, and the heartbeats of nodes."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, name: str) -> str | None:
        """The value of ``name``."""
        value: str | None = await self._connection.scalar(select(meta.c.value).where(meta.c.name == name))
        return value

    async def starting_with(self, prefix: str) -> dict[str, str]:
        """All names with this prefix, and their values."""
        statement = select(meta.c.name, meta.c.value).where(meta.c.name.startswith(prefix, autoescape=True))
        return {row.name: row.value for row in await self._connection.execute(statement)}

    async def put(self, name: str, value: str) -> None:
        """Remembers a value."""
        await self._connection.execute(
            upsert(self._connection, meta, ["name"], lambda new: {"value": new.value}), {"name": name, "value": value}
        )

    async def put_first(self, name: str, value: str) -> str:
        """Remembers a value unless there is one; returns the one that stands, whoever was first."""
        statement = upsert(self._connection, meta, ["name"], lambda _: {"value": meta.c.value})  # waits for the other
        await self._connection.execute(statement, {"name": name, "value": value})
        first = await self.get(name)
        assert first is not None
        return first

    async def remove(self, name: str) -> None:
        """Forgets a name."""
        await self._connection.execute(delete(meta).where(meta.c.name == name))

    async def beat(self, node_id: str, *, started_at_us: int, now_us: int) -> None:
        """Notes that a node lives."""
        statement = upsert(self._connection, nodes, ["id"], lambda new: {"seen_at_us": new.seen_at_us})
        await self._connection.execute(statement, {"id": node_id, "started_at_us": started_at_us, "seen_at_us": now_us})

    async def leave(self, node_id: str) -> None:
        """Notes that a node was shut down."""
        await self._connection.execute(delete(nodes).where(nodes.c.id == node_id))

    async def live_nodes(self, *, since_us: int) -> int:
        """How many nodes were seen since; those not seen for long before it are forgotten."""
        statement = select(func.count()).select_from(nodes).where(nodes.c.seen_at_us >= since_us)
        return int(await self._connection.scalar(statement) or 0)

    async def first_node(self, *, since_us: int) -> str | None:
        """Of the nodes that were seen since, the one whose id comes first: it does what one of all is to do."""
        statement = select(func.min(nodes.c.id)).where(nodes.c.seen_at_us >= since_us)
        first: str | None = await self._connection.scalar(statement)
        return first

    async def forget_nodes(self, *, before_us: int) -> None:
        """Forgets nodes that were not seen since."""
        await self._connection.execute(delete(nodes).where(nodes.c.seen_at_us < before_us))
