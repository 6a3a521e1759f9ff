"""Limits on what anybody may ask without a credential: counted by address, in the store of all limits."""

from __future__ import annotations

import inspect
import math

from starlette.types import Scope

from apishield.api.origins import Origins
from apishield.core.counter_keys import counter_key
from apishield.core.model import SECOND_US, Counter, Limit, OnStoreFailure
from apishield.core.ports import CounterStore
from apishield.core.rate_limiter.parse import parse_limit


class AddressLimit:
    """A limit for each address (of IPv6 each /64), kept under ``name``. Raises ``ValueError`` for a text that is none."""

    def __init__(self, origins: Origins, store: CounterStore, name: str, text: str) -> None:
        self._origins = origins
        self._store = store
        self._nobodys = name  # the place of the tenant in the counter's key: whoever asks belongs to none
        self._limit = Limit(
            id=f"lim_{name}", name=name, algorithm=parse_limit(text), on_store_failure=OnStoreFailure.LOCAL
        )

    async def wait_of(self, scope: Scope) -> int | None:
        """Counts the request of ``scope``: ``None`` where it may pass, else the whole seconds to wait."""
        key = counter_key(self._nobodys, "live", self._limit, {"ip": self._origins.counted(scope) or "unknown"})
        decided = self._store.decide([Counter(key, self._limit)], [1])
        verdict = await decided if inspect.isawaitable(decided) else decided
        if verdict.admitted:
            return None
        return math.ceil((verdict.outcomes[0].retry_after_us or SECOND_US) / SECOND_US)
