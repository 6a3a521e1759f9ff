"""The limiters that can be scored: an APIShield, anything behind HTTP, a Python object."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import httpx2

from apishield.client.clients import AsyncAPIShield
from apishield.client.errors import ServiceUnavailableError
from apishield.client.wire import checked_url
from apishield.conformance.adapter import Adapter, MakeAdapter
from apishield.conformance.subjects import Answer
from apishield.core.model import SECOND_US, FixedWindow, SlidingWindow, TokenBucket
from apishield.core.rate_limiter.parse import RateAlgorithm
from apishield.errors import APIShieldError, ConfigurationError

PLACEHOLDER = "{subject}"
TIMEOUT_SECONDS = 10.0


class ServiceTarget:
    """An APIShield. With an owner's token every subject is a key of its own, revoked at the end; else the one key given."""

    costs = True
    simulated = False

    def __init__(self, url: str, token: str, caller_key: str | None = None) -> None:
        self.fresh = caller_key is None
        self._client = AsyncAPIShield(url, token=token, timeout_seconds=TIMEOUT_SECONDS, retries=0)
        self._caller_key = caller_key
        self._limits: list[dict[str, int | str]] = []
        self._made: list[str] = []

    async def begin(self, rules: Sequence[RateAlgorithm]) -> None:
        """Keys are made with ``rules`` from now on; of a key that was given they are believed."""
        self._limits = [{"name": f"limit {number}", **_written(rule)} for number, rule in enumerate(rules, 1)]

    async def subject(self) -> str:
        """The secret of a key."""
        if self._caller_key is not None:
            return self._caller_key
        key = await self._client.create_key("apishield conformance", rate_limits=list(self._limits), scopes=["read"])
        self._made.append(key.id)
        if key.key is None:
            raise ServiceUnavailableError("The service made a key and did not tell its secret.", sent=True)
        return key.key

    async def ask(self, subject: str, cost: int, now_us: int) -> Answer:
        """Asks ``/v1/check``. Raises ``APIShieldError`` where it is refused for another reason than its limits."""
        decision = await self._client.check(api_key=subject, cost=cost)
        if decision.allowed:
            return Answer(admitted=True)
        if decision.code != "rate_limited":
            raise APIShieldError(f"The check was refused with {decision.code}: {decision.message}")
        wait_us = None if decision.retry_after is None else round(decision.retry_after * SECOND_US)
        return Answer(admitted=False, retry_after_us=wait_us, resolution_us=1000)

    async def close(self) -> None:
        """Revokes the keys that were made."""
        try:
            for key_id in self._made:
                await self._client.revoke_key(key_id)
        finally:
            await self._client.aclose()


class UrlTarget:
    """Any HTTP endpoint behind a limiter: below 400 is admitted, 429 refused. ``{subject}`` in the URL or a header counts."""

    costs = False
    simulated = False

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        checked_url(url.partition("?")[0].replace(PLACEHOLDER, "x"))
        self.fresh = any(PLACEHOLDER in text for text in (url, *headers.values()))
        self._url = url
        self._headers = dict(headers)
        self._client = httpx2.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)
        self._names = itertools.count(1)

    async def begin(self, rules: Sequence[RateAlgorithm]) -> None:
        """Takes ``rules`` for what the endpoint holds."""

    async def subject(self) -> str:
        """A new name."""
        return f"conformance-{id(self):x}-{next(self._names)}"

    async def ask(self, subject: str, cost: int, now_us: int) -> Answer:
        """Sends a GET. Raises ``APIShieldError`` where the answer is neither an admission nor a 429."""
        url = self._url.replace(PLACEHOLDER, quote(subject, safe=""))
        headers = {name: value.replace(PLACEHOLDER, subject) for name, value in self._headers.items()}
        try:
            response = await self._client.get(url, headers=headers)
        except httpx2.TransportError as error:
            raise APIShieldError(f"{url} can't be reached: {error or type(error).__name__}") from error
        if response.status_code < 400:
            return Answer(admitted=True)
        if response.status_code != 429:
            raise APIShieldError(f"{url} answered {response.status_code}; admitted is below 400, refused is 429.")
        seconds = response.headers.get("Retry-After", "")
        if not (seconds.isascii() and seconds.isdigit()):
            return Answer(admitted=False)
        return Answer(admitted=False, retry_after_us=int(seconds) * SECOND_US, resolution_us=SECOND_US)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


class AdapterTarget:
    """A limiter in this process."""

    fresh = True

    def __init__(self, make: MakeAdapter) -> None:
        self._make = make
        self._adapter: Adapter | None = None
        self._names = itertools.count(1)
        self._resolution_us = 0
        self.costs = self.simulated = False

    async def begin(self, rules: Sequence[RateAlgorithm]) -> None:
        """Makes the limiter. Raises ``ConfigurationError`` where it can't hold ``rules``."""
        await self.close()
        try:
            self._adapter = self._make(rules)
        except ValueError as error:
            raise ConfigurationError(f"The adapter can't hold these limits: {error}") from error
        self.costs = getattr(self._adapter, "costs", True)
        self.simulated = getattr(self._adapter, "simulated", False)
        self._resolution_us = round(getattr(self._adapter, "resolution_seconds", 0.0) * SECOND_US)

    async def subject(self) -> str:
        """A new name."""
        return f"subject-{next(self._names)}"

    async def ask(self, subject: str, cost: int, now_us: int) -> Answer:
        """Calls ``hit``."""
        if self._adapter is None:
            raise RuntimeError("begin() comes first")
        told = self._adapter.hit(subject, cost, now_us)
        admitted, seconds = await told if inspect.isawaitable(told) else told
        wait_us = None if seconds is None or admitted else round(seconds * SECOND_US)
        return Answer(bool(admitted), wait_us, self._resolution_us)

    async def close(self) -> None:
        """Lets go of the limiter."""
        if self._adapter is not None:
            self._adapter.reset()
            self._adapter = None


def _written(rule: RateAlgorithm) -> dict[str, int | str]:
    """``rule`` as the contract takes it."""
    written: dict[str, int | str] = {"requests": rule.requests, "window_seconds": rule.window_us // SECOND_US}
    match rule:
        case SlidingWindow():
            return {"strategy": "sliding_window", **written}
        case FixedWindow():
            return {"strategy": "fixed_window", **written}
        case TokenBucket():
            return {"strategy": "token_bucket", "burst": rule.burst, **written}
