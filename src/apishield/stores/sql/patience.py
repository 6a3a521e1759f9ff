"""Connections for those who do not wait for ever on a PostgreSQL that has fallen silent.

A frozen server keeps its sockets open, so no time-out of the network ends the wait, and its own time-outs stand still.
Cancelling would not do either: the driver answers it by asking the server to cancel, and waits for that.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from apishield.stores.sql.failures import unavailable

_closing: set[asyncio.Task[None]] = set()  # the event loop holds its tasks only weakly


@asynccontextmanager
async def connected(engine: AsyncEngine, *, seconds: float, to_the_end: bool) -> AsyncIterator[AsyncConnection]:
    """A connection to PostgreSQL. Raises 503 ``database_unavailable`` where there is none within ``seconds``.

    Where they bind ``to_the_end``, it is hung up when they are over; what waits on it then fails as when it is lost.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    connection = await _open(engine, seconds)
    hanging_up = loop.call_at(deadline, _hang_up, connection) if to_the_end else None
    try:
        yield connection
    finally:
        await asyncio.shield(_close(connection, hanging_up))


async def _open(engine: AsyncEngine, seconds: float) -> AsyncConnection:
    opening = asyncio.create_task(engine.connect().start())
    try:
        await asyncio.wait({opening}, timeout=seconds)
        if opening.done():
            return opening.result()
        raise unavailable()
    except BaseException:
        opening.cancel()  # and not waited for: a frozen server holds on to its connection long after
        opening.add_done_callback(_close_late)  # it may be there already, and whoever waited was cancelled this moment
        raise


def _close_late(opening: asyncio.Task[AsyncConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        _close(opening.result())


def _close(connection: AsyncConnection, hanging_up: asyncio.TimerHandle | None = None) -> asyncio.Task[None]:
    closing = asyncio.create_task(connection.close())
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    if hanging_up is not None:  # closing waits for the server too
        closing.add_done_callback(lambda _: hanging_up.cancel())
    return closing


def _hang_up(connection: AsyncConnection) -> None:
    """Ends the conversation at our end: whoever waits for the server's next word hears that there will be none."""
    held = connection.sync_connection
    if held is None or held.closed or held.invalidated:
        return
    driver: Any = held.connection.driver_connection
    if not driver.closed:
        with socket.socket(fileno=os.dup(driver.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
