"""APIShield: rate limiting, API keys, abuse protection, usage analytics and billing for an API.

``RateLimitMiddleware`` protects an ASGI app; ``APIShield`` and ``AsyncAPIShield`` ask the service. They are loaded when they
are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from apishield.errors import APIShieldError, ConfigurationError

if TYPE_CHECKING:
    from apishield.client.clients import APIShield, AsyncAPIShield
    from apishield.client.errors import APIError, ServiceUnavailableError
    from apishield.core.decision import Decision
    from apishield.integrations.asgi import RateLimitMiddleware

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "APIShield",
    "APIShieldError",
    "AsyncAPIShield",
    "ConfigurationError",
    "Decision",
    "RateLimitMiddleware",
    "ServiceUnavailableError",
    "__version__",
]

_HOMES = {
    "APIError": "apishield.client.errors",
    "APIShield": "apishield.client.clients",
    "AsyncAPIShield": "apishield.client.clients",
    "Decision": "apishield.core.decision",
    "RateLimitMiddleware": "apishield.integrations.asgi",
    "ServiceUnavailableError": "apishield.client.errors",
}


def __getattr__(name: str) -> Any:
    """Loads an exported name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exported names, loaded or not."""
    return sorted({*globals(), *__all__})
