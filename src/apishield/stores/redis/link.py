"""One connection to one Redis, shared by all checks of a process: everything is pipelined, answers come in order.

redis-py connects and authenticates (TLS, ACL, Unix sockets, Sentinel); its protocol of one command at a time is then taken
off the transport and replaced by this one, which costs a tenth. A call that was sent is never sent again by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from apishield.errors import NoAnswer, StoreUnavailable
from apishield.stores.redis.connection import CONNECT_TIMEOUT_SECONDS, NewConnection
from apishield.stores.redis.runs import Runs, facts_of
from apishield.stores.redis.script import SCRIPT, command

_LOST = "The connection to Redis was lost."
_ASKING = command(b"ASKING")
_LOAD_SCRIPT = command(b"SCRIPT", b"LOAD", SCRIPT)
_INFO = command(b"INFO")
_NOT_YET = ("LOADING", "BUSY")
_ASK_AGAIN_SECONDS = 0.1


class Call(Protocol):
    """Who waits for an answer."""

    def answered(self, reply: object) -> None:
        """Takes the answer, or the ``hiredis.ReplyError`` that the server gave instead."""
        ...

    def lost(self, error: StoreUnavailable) -> None:
        """Learns that no answer will come. The call may have run."""
        ...


class _Ignore:
    """Waits for an answer that nobody needs."""

    def answered(self, reply: object) -> None:
        pass

    def lost(self, error: StoreUnavailable) -> None:
        pass


_IGNORE = _Ignore()


class _Introduction:
    """Waits for what a server says of itself."""

    def __init__(self, runs: Runs, silent_seconds: float, ask_again: Callable[[float], None] | None = None) -> None:
        self._runs = runs
        self._silent_seconds = silent_seconds
        self._ask_again = ask_again

    def answered(self, reply: object) -> None:
        facts = facts_of(reply)
        if facts.run_id:
            self._runs.learn(facts, self._silent_seconds)
        elif self._ask_again is not None and str(reply).startswith(_NOT_YET):
            self._ask_again(self._silent_seconds)

    def lost(self, error: StoreUnavailable) -> None:
        pass


class Link(asyncio.Protocol):
    """A connection that is up, until ``is_down``."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer  # kept, because it closes its transport when it is collected
        self._transport = writer.transport
        self._reader = hiredis.Reader()
        self._waiting: deque[Call] = deque()
        self._now = asyncio.get_running_loop().time
        self._silent_since = self._now()
        self.is_down = False

    @property
    def heard_at(self) -> float:
        """When the server last gave an answer, in the loop's time."""
        return self._silent_since

    @property
    def silent_seconds(self) -> float:
        """For how long the server has owed an answer and given none."""
        return self._now() - self._silent_since if self._waiting else 0.0

    def send(self, packed: bytes, call: Call) -> None:
        """Sends a ``packed`` command; ``call`` gets the answer."""
        if self.is_down:
            call.lost(StoreUnavailable(_LOST))
            return
        if not self._waiting:
            self._silent_since = self._now()
        self._waiting.append(call)
        self._transport.write(packed)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.abort()
        self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        """Hands answers to whoever waits, in order (called by the event loop)."""
        self._silent_since = self._now()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._waiting.popleft().answered(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells all who wait that nothing will come (called by the event loop)."""
        self.is_down = True
        while self._waiting:
            self._waiting.popleft().lost(NoAnswer(_LOST))


class Node:
    """One Redis, connected when it is first needed and again whenever it went away.

    ``is_gone`` is whether the last attempt to reach it failed. It introduces itself on every connection, see ``runs``.
    """

    def __init__(
        self,
        new_connection: NewConnection,
        on_unreachable: Callable[[], None] = lambda: None,
        on_forgot: Callable[[], None] = lambda: None,
    ) -> None:
        self.runs = Runs(on_forgot)
        self.is_gone = False
        self._new_connection = new_connection
        self._on_unreachable = on_unreachable
        self._heard_at = 0.0
        self._link: Link | None = None
        self._unsent: list[tuple[bytes, Call]] = []
        self._connecting: asyncio.Task[None] | None = None

    def send(self, packed: bytes, call: Call) -> None:
        """Sends a ``packed`` command at once, or as soon as there is a connection."""
        link = self._link
        if link is not None and not link.is_down:
            link.send(packed, call)
            return
        self._unsent.append((packed, call))
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def load_script(self) -> None:
        """Teaches the server the script again, before anything that is sent from now on."""
        self.send(_LOAD_SCRIPT, _IGNORE)

    def ask_for_facts(self) -> None:
        """Lets the server introduce itself again."""
        self.send(_INFO, _Introduction(self.runs, 0.0))

    def ask_importing(self) -> None:
        """Lets a Cluster's node that is importing a slot take the next call."""
        self.send(_ASKING, _IGNORE)

    def give_up_if_silent(self, seconds: float) -> bool:
        """Drops a connection on which the server has owed an answer for ``seconds``; returns whether it did."""
        if self._link is None or self._link.silent_seconds < seconds:
            return False
        self.disconnect()
        self.is_gone = True
        return True

    def disconnect(self) -> None:
        """Drops the connection; the next call makes a new one, to whoever is the primary then."""
        if self._link is not None:
            self._heard_at = self._link.heard_at
            self._link.close()
            self._link = None

    async def close(self) -> None:
        """Drops the connection, and an attempt to make one."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._fail_unsent("The store is closed.")
        self.disconnect()

    async def _connect(self) -> None:
        self.disconnect()
        try:
            self._link = await asyncio.wait_for(open_link(self._new_connection()), CONNECT_TIMEOUT_SECONDS)
        except (RedisError, OSError, TimeoutError) as error:
            self.is_gone = True
            self._fail_unsent(f"Redis can't be reached: {str(error) or type(error).__name__}.")
            self._on_unreachable()
        else:
            self.is_gone = False
            self._link.send(_LOAD_SCRIPT, _IGNORE)
            # Before any check, so that it is known with the first verdict.
            silent_seconds = asyncio.get_running_loop().time() - self._heard_at
            self._ask_who(self._link, silent_seconds)
            unsent, self._unsent = self._unsent, []
            for packed, call in unsent:
                self._link.send(packed, call)
        finally:
            self._connecting = None

    def _ask_who(self, link: Link, silent_seconds: float) -> None:
        """Has the server introduce itself; one that is still loading is asked again."""

        def again(silent_seconds: float) -> None:
            asyncio.get_running_loop().call_later(_ASK_AGAIN_SECONDS, self._ask_who, link, silent_seconds)

        if not link.is_down:
            link.send(_INFO, _Introduction(self.runs, silent_seconds, again))

    def _fail_unsent(self, reason: str) -> None:
        unsent, self._unsent = self._unsent, []
        for _, call in unsent:
            call.lost(StoreUnavailable(reason))


async def open_link(connection: AbstractConnection) -> Link:
    """Connects and authenticates as redis-py does, and takes the transport over."""
    await connection.connect()  # type: ignore[no-untyped-call]
    writer = connection._writer  # redis-py has no public way to its transport
    assert writer is not None
    connection._writer = connection._reader = None  # else it closes the transport when it is collected
    link = Link(writer)
    writer.transport.set_protocol(link)
    return link
