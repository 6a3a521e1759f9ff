"""Signing up without a token: who may, and how often from one address."""

from __future__ import annotations

from starlette.types import Scope

from apishield.api.address_limits import AddressLimit
from apishield.api.origins import Origins
from apishield.core.ports import CounterStore
from apishield.errors import ConfigurationError, ProblemError


class SignUps:
    """Admits sign-ups by where they come from, and counts them by address in the store of all limits."""

    def __init__(self, origins: Origins, store: CounterStore, limit: str) -> None:
        self._origins = origins
        self._text = limit
        try:
            self._limit = AddressLimit(origins, store, "signup", limit)
        except ValueError as error:
            raise ConfigurationError(f"APISHIELD_SIGNUP_LIMIT: {error}") from None

    async def admit(self, scope: Scope) -> None:
        """Raises ``signup_closed`` for a stranger, ``signup_rate_limited`` for an address that signs up too often."""
        if not self._origins.may_sign_up(scope):
            raise ProblemError(
                "signup_closed",
                "Signing up without a token is open to programs on the same machine only. Send the operator's token: "
                "'Authorization: Bearer aso_…'.",
            )
        wait_seconds = await self._limit.wait_of(scope)
        if wait_seconds is not None:
            raise ProblemError(
                "signup_rate_limited",
                f"This address has signed up too often; the limit is {self._text}.",
                headers={"Retry-After": str(wait_seconds)},
            )
