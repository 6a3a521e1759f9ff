"""An app behind ``RateLimitMiddleware``, and the service that it asks, for tests that steer both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from apishield import RateLimitMiddleware
from apishield.integrations.breaker import Breaker
from tests.support.fake_service import FakeService, serving

Protect = Callable[..., RateLimitMiddleware]


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """The service, over HTTP in the test's own loop."""
    service = FakeService()
    async with serving(service) as url:
        service.url = url
        yield service
        service.answering.set()


@pytest.fixture
def seconds() -> list[float]:
    """The breaker's clock."""
    return [1000.0]


@pytest.fixture
async def protect(service: FakeService, seconds: list[float]) -> AsyncIterator[Protect]:
    """Puts an app behind the middleware that asks the service."""
    made: list[RateLimitMiddleware] = []

    def protect(app: Any, **options: Any) -> RateLimitMiddleware:
        asked: dict[str, Any] = {"apishield_url": service.url, "api_key": "sk_live_service", "timeout_seconds": 1.0}
        middleware = RateLimitMiddleware(app, **asked | options)
        middleware.protection.guard.availability.breaker = Breaker(lambda: seconds[0])  # type: ignore[attr-defined]
        made.append(middleware)
        return middleware

    yield protect
    for middleware in made:
        await middleware.protection.guard.close()


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest app."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


def client_of(app: Any, address: str = "198.51.100.7", **options: Any) -> httpx2.AsyncClient:
    """Asks an ASGI app, from ``address``."""
    transport = httpx2.ASGITransport(app, client=(address, 4711), **options)
    return httpx2.AsyncClient(transport=transport, base_url="http://api.test")
