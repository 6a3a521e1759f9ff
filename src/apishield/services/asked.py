"""What the steps of a verdict learn of one check: what they hand on, and what its event is made of."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from apishield.core.abuse_detector.addresses import Address
from apishield.core.decision import CheckRequest, Denial
from apishield.core.endpoints import CatalogueEntry
from apishield.core.model import Counter
from apishield.core.policies import Meter
from apishield.services.key_entries import KeyEntry
from apishield.services.snapshot import TenantView


class Asked(msgspec.Struct, gc=False):
    """One check on its way. ``method``, ``path`` and ``address`` are those of the request once they were found good.

    A struct, because one is made for every check, and msgspec makes it in a quarter of the time.
    """

    view: TenantView
    request: CheckRequest
    entry: KeyEntry | None = None
    denial: Denial | None = None
    """Why it is refused whatever its limits say."""
    endpoint: CatalogueEntry | None = None
    counters: Sequence[Counter] = ()
    meters: Sequence[Meter] = ()
    unit_costs: Sequence[int] | None = None
    """What a check of cost 1 is charged, where its counters are its key's and no policy's."""
    takes_slots: bool = False
    method: str | None = None
    path: str | None = None
    address: Address | None = None
    degraded: bool = False
    check_id: str = ""
    """Of the decision, where it had to be known before the store was asked."""
    held: bool = False
    """Whether ``check_id`` names a record to settle by."""
    sequence: int = 0

    @property
    def peek(self) -> bool:
        """Whether it only looks."""
        return self.request.cost == 0
