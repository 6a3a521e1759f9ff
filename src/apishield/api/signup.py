"""Signing up without a token: who may, and how often from one address."""

from __future__ import annotations

import inspect
import math

from starlette.types import Scope

from apishield.api.origins import Origins
from apishield.core.counter_keys import counter_key
from apishield.core.model import SECOND_US, Counter, Limit, OnStoreFailure
from apishield.core.ports import CounterStore
from apishield.core.rate_limiter.parse import parse_limit
from apishield.errors import ConfigurationError, ProblemError

_NOBODYS = "signup"  # the place of the tenant in the counter's key: nobody has one yet


class SignUps:
    """Admits sign-ups by where they come from, and counts them by address in the store of all limits."""

    def __init__(self, origins: Origins, store: CounterStore, limit: str) -> None:
        self._origins = origins
        self._store = store
        self._text = limit
        try:
            algorithm = parse_limit(limit)
        except ValueError as error:
            raise ConfigurationError(f"APISHIELD_SIGNUP_LIMIT: {error}") from None
        self._limit = Limit(id="lim_signup", name="signup", algorithm=algorithm, on_store_failure=OnStoreFailure.LOCAL)

    async def admit(self, scope: Scope) -> None:
        """Raises ``signup_closed`` for a stranger, ``signup_rate_limited`` for an address that signs up too often."""
        if not self._origins.may_sign_up(scope):
            raise ProblemError(
                "signup_closed",
                "Signing up without a token is open to programs on the same machine only. Send the operator's token: "
                "'Authorization: Bearer aso_…'.",
            )
        key = counter_key(_NOBODYS, "live", self._limit, {"ip": self._origins.counted(scope) or "unknown"})
        decided = self._store.decide([Counter(key, self._limit)], [1])
        verdict = await decided if inspect.isawaitable(decided) else decided
        if not verdict.admitted:
            wait_us = verdict.outcomes[0].retry_after_us
            headers = {} if wait_us is None else {"Retry-After": str(math.ceil(wait_us / SECOND_US))}
            raise ProblemError(
                "signup_rate_limited",
                f"This address has signed up too often; the limit is {self._text}.",
                headers=headers,
            )
