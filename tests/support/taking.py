"""Events taken into the ledger as a worker would take them."""

from __future__ import annotations

from collections.abc import Sequence

from apishield.core.events import Event, Frame, Intake, SpoolPart, encode_events
from apishield.services.ledger import Claim, LedgerService


class Taking:
    """Takes events of one spool."""

    def __init__(self, ledger: LedgerService, spool: int = 7) -> None:
        self.spool = spool
        self._ledger = ledger
        self._claim: Claim | None = None
        self._position = 0

    async def take(self, events: Sequence[Event]) -> None:
        """Takes ``events`` as one intake of one frame."""
        stream = f"spool:{self.spool:08x}"
        claim = self._claim or await self._ledger.claim(stream, "test")
        start, self._position = self._position, self._position + 1
        payload = bytearray()
        encode_events(list(events), payload)
        parts = [SpoolPart(self.spool, [Frame(self._position, bytes(payload))])]
        self._claim = (await self._ledger.apply(claim, Intake(stream, start, self._position, parts))).claim
