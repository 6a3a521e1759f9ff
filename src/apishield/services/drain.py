"""Takes what processes of this node have spooled into the ledger: round by round, exactly once, whatever ends in between.

Owns: which spool is read when, what is done with one whose process is gone, what becomes of a frame that the ledger can't read.
Does not own: files (``stores.spool``), the transaction that makes it exactly once (``services.ledger``), when a round comes
(``workers.ledger``, or a loop of the service).
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec
import structlog

from apishield.core.events import Frame, Intake, ReadFrame, SpoolPart
from apishield.core.model import SECOND_US
from apishield.core.ports import Clock
from apishield.stores.kafka.published import read_published
from apishield.stores.spool import SpoolReader, Spools
from apishield.stores.spool.files import spool_name
from apishield.stores.spool.quarantine import put_aside
from apishield.stores.spool.reader import READ_EVENTS
from apishield.stores.sql.failures import Blame, blame_of
from apishield.stores.sql.ledger.positions import Claim, Fenced

log = structlog.get_logger("apishield.ledger")

EVENTS_BESIDE_CHECKS: Final = 2_000
"""What a process takes at once that decides checks on the same loop: they wait for some 50 ms at most."""

HOUSEKEEPING_US = 3600 * SECOND_US
"""How often the ledger is tidied up, and claims are renewed so that it does not forget a spool in which nothing happens."""


class Ledger(Protocol):
    """What a drain asks of the ledger."""

    async def claim(self, stream: str, owner: str) -> Claim:
        """Makes ``owner`` the only one who may take ``stream``; tells up to where it was taken."""
        ...

    async def apply(self, claim: Claim, intake: Intake, /) -> object:
        """Takes the events, once. Raises ``Fenced`` where the claim is stale."""
        ...

    async def settle_pending(self) -> int:
        """Joins results that came before their decisions; how many."""
        ...

    async def keep_house(self) -> None:
        """Forgets what is old."""
        ...


class DrainStats(msgspec.Struct):
    """Plain numbers of one drain. ``caught_up_at_us``: what was written until then was taken (microseconds since the epoch)."""

    intakes: int = 0
    fenced: int = 0
    unreadable_frames: int = 0
    failures: int = 0
    caught_up_at_us: int = 0


class SpoolDrain:
    """Drains the spools of this node, as long as no other worker of the node does.

    ``step`` is one round; ``draining`` whether this is the worker that drains. ``events_at_once`` are what it takes in one
    transaction, for which it keeps the loop busy: a process that decides checks as well gives few.
    """

    def __init__(
        self, spools: Spools, ledger: Ledger, clock: Clock, *, owner: str, events_at_once: int = READ_EVENTS
    ) -> None:
        self.spools = spools
        self._most_at_once = events_at_once
        self.stats = DrainStats()
        self.draining = False
        self._ledger, self._clock, self._owner = ledger, clock, owner
        self._claims: dict[int, Claim] = {}
        self._positions: dict[int, int] = {}
        self._house_kept_at_us = 0
        self._at_once: dict[int, int] = {}  # events, where fewer than usual are taken, because the last intake failed
        self._untakable: set[tuple[int, int]] = set()
        self._turn = asyncio.Lock()  # who asks for figures may call for a round while one goes on
        self._is_closed = False

    async def catch_up(self) -> None:
        """Takes all that there is."""
        while await self.step():
            pass

    async def step(self) -> bool:
        """Takes what there is, at most one read of each spool; whether there is more.

        Raises what the ledger raises, and ``OSError``; nothing is lost then: the next call goes on where this one ended.
        Who is cancelled while it waits leaves the round to end by itself: a transaction that is broken off leaves a
        connection behind that may hold SQLite's lock for long.
        """
        going_on = asyncio.ensure_future(self._one_round())
        going_on.add_done_callback(_look_at)
        return await asyncio.shield(going_on)

    def close(self) -> None:
        """Lets go of the spools, for good: a round that waits for its turn would else take them from the next worker."""
        self._is_closed = True
        self.draining = False
        self.spools.close()

    async def _one_round(self) -> bool:
        async with self._turn:
            if self._is_closed:
                return False
            self.draining = self.spools.hold()
            return self.draining and await self._round()

    async def _round(self) -> bool:
        began_at_us = self._clock()
        self.spools.make_room()
        behind, failure = False, None
        for reader in self.spools.readers():
            try:
                behind |= await self._drain(reader)
            except Exception as error:  # noqa: BLE001  raised below: one spool that can't be read keeps no other waiting
                self._take_less(reader.spool, error)
                self._let_go(reader.spool)  # whether it was taken is not known: the next claim tells
                self.stats.failures += 1
                failure = error
        if failure is not None:
            raise failure
        await self._ledger.settle_pending()
        await self._keep_house()
        if not behind:
            self.stats.caught_up_at_us = began_at_us
        return behind

    async def _drain(self, reader: SpoolReader) -> bool:
        claim = self._claims.get(reader.spool) or await self._claim(reader.spool)
        position = self._positions[reader.spool]
        reader.forget(position)  # before reading on: see ``stores.spool.folding``
        orphaned = reader.adopt()  # before reading: only then is the end that is found the end
        at_once = self._at_once.get(reader.spool, self._most_at_once)
        part, end = reader.read(position, max_events=at_once)
        if part.frames:
            try:
                await self._ledger.apply(claim, Intake(claim.stream, position, end, [self._readable(part, position)]))
            except Fenced as error:
                log.warning("ledger.fenced", stream=claim.stream, reason=str(error))
                self.stats.fenced += 1
                self._let_go(reader.spool)
                return True
            self._positions[reader.spool] = end
            self.stats.intakes += 1
            if at_once < self._most_at_once:
                self._at_once[reader.spool] = min(2 * at_once, self._most_at_once)
        if orphaned and not reader.behind:
            reader.remove()
            self._let_go(reader.spool)
        return reader.behind

    async def _claim(self, spool: int) -> Claim:
        claim = await self._ledger.claim(f"spool:{spool_name(spool)}", self._owner)
        position = claim.position
        published = read_published(self.spools.root, spool)
        if published is not None and published > position:
            # The node used Kafka before: what it has published is taken from there, by whoever reads the topic.
            log.warning("ledger.spool_was_published", spool=spool_name(spool), taken=position, published=published)
            await self._ledger.apply(claim, Intake(claim.stream, position, published, []))
            position = published
        self._claims[spool], self._positions[spool] = claim, position
        return claim

    def _take_less(self, spool: int, error: Exception) -> None:
        """Next time takes a part of what failed: it may have been more than the database does within its time.

        Where a single frame fails by something else than the database's trouble, no later try would go better.
        """
        at_once = self._at_once.get(spool, self._most_at_once)
        if at_once == 1 and spool in self._positions and blame_of(error) is Blame.INPUT:
            self._untakable.add((spool, self._positions[spool]))
        self._at_once[spool] = max(1, at_once // 4)

    def _readable(self, part: SpoolPart, position: int) -> SpoolPart:
        """The part less the frames that the ledger can't take: whole ones that hold no events, as those of a later version,
        and one that it failed at, alone. These are put aside.
        """
        if (part.spool, position) in self._untakable:
            self._untakable.discard((part.spool, position))
            for frame in part.frames:
                self._put_aside(part.spool, frame, "the ledger failed at it")
            return SpoolPart(part.spool, [])
        frames: list[Frame] = []
        for frame in part.frames:
            try:
                frames.append(ReadFrame.of(frame))
            except msgspec.DecodeError as error:
                self._put_aside(part.spool, frame, str(error))
        return SpoolPart(part.spool, frames)

    def _put_aside(self, spool: int, frame: Frame, reason: str) -> None:
        self.stats.unreadable_frames += 1
        name = spool_name(spool)
        kept = put_aside(self.spools.root, f"{name}-unreadable-{frame.end}", frame.payload)
        log.error("ledger.unreadable_frame", spool=name, end=frame.end, error=reason[:500], quarantine=kept)

    async def _keep_house(self) -> None:
        now_us = self._clock()
        if now_us - self._house_kept_at_us >= HOUSEKEEPING_US:
            self._house_kept_at_us = now_us
            self._claims.clear()  # renewed by the next round
            await self._ledger.keep_house()

    def _let_go(self, spool: int) -> None:
        self._claims.pop(spool, None)
        self._positions.pop(spool, None)


def _look_at(ended: asyncio.Future[bool]) -> None:
    """Takes note of an exception that nobody waits for any more; the next round meets its cause again."""
    if not ended.cancelled():
        ended.exception()
