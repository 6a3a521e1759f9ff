"""What the steps of a verdict learn of one check: what they hand on, and what its event is made of."""

from __future__ import annotations

from collections.abc import Sequence

from apishield.core.abuse_detector.addresses import Address
from apishield.core.decision import CheckRequest
from apishield.core.endpoints import CatalogueEntry
from apishield.core.model import Counter
from apishield.core.policies import Meter
from apishield.services.key_entries import KeyEntry
from apishield.services.snapshot import TenantView


class Asked:
    """One check on its way. ``method``, ``path`` and ``address`` are those of the request once they were found good."""

    __slots__ = (
        "address", "check_id", "counters", "degraded", "endpoint", "entry", "held", "meters", "method", "path", "peek",
        "request", "sequence", "takes_slots", "view",
    )  # fmt: skip

    def __init__(self, view: TenantView, request: CheckRequest) -> None:
        self.view = view
        self.request = request
        self.entry: KeyEntry | None = None
        self.endpoint: CatalogueEntry | None = None
        self.counters: Sequence[Counter] = ()
        self.meters: Sequence[Meter] = ()
        self.method: str | None = None
        self.path: str | None = None
        self.address: Address | None = None
        self.degraded = False
        self.peek = request.cost == 0
        self.check_id = ""  # of the decision, where it had to be known before the store was asked
        self.held = False  # whether that names a record to settle by
        self.sequence = 0
        self.takes_slots = False
