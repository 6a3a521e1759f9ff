"""What a request looks like on the wire, how its answer is read, and which failures are worth another try.

Owns: everything about HTTP that blocking and asynchronous clients share. Does not own: waiting (``clients``), which calls
there are (``calls``).
"""

from __future__ import annotations

import platform
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from apishield import __version__
from apishield.client.calls import Call
from apishield.client.errors import ServerError, ServiceUnavailableError, TooManyRequestsError, error_of
from apishield.errors import APIShieldError, ConfigurationError

T = TypeVar("T")

USER_AGENT = f"apishield-python/{__version__} (python {platform.python_version()})"
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# Below the idle time of the service (75 s) and of common load balancers (60 s), so that no connection is reused just as it
# is closed.
KEEPALIVE_SECONDS = 30.0
MAX_CONNECTIONS = 100


class Wire:
    """One service and the credentials for it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        tenant_id: str | None = None,
        timeout_seconds: float = 5.0,
        retries: int = 2,
    ) -> None:
        self.url = checked_url(url)
        self._retries = retries
        self._extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_seconds)}
        common = {"Host": urlsplit(self.url).netloc, "Accept": "application/json", "User-Agent": USER_AGENT}
        if tenant_id is not None:
            common["X-APIShield-Tenant"] = tenant_id
        self._data_headers = common | _bearer("api_key", api_key or token)
        self._control_headers = common | _bearer("token", token or api_key)

    def request(self, call: Call[Any]) -> httpx2.Request:
        """``call`` as a request; data-plane calls go with the service key where there is one, all others with the token."""
        headers = dict(self._data_headers if call.data_plane else self._control_headers)
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.idempotency_key is not None:
            headers["Idempotency-Key"] = call.idempotency_key
        return httpx2.Request(
            call.method, self.url + call.path, headers=headers, content=call.body, extensions=self._extensions
        )

    def answer(self, call: Call[T], response: httpx2.Response) -> T:
        """What a response that was read says. Raises ``APIError`` or ``ServiceUnavailableError`` where it is not a success."""
        if not 200 <= response.status_code < 300:
            raise error_of(response.status_code, response.content, response.headers.get("Retry-After"))
        body = b"null" if call.answer is type(None) else response.content
        try:
            return msgspec.json.decode(body, type=call.answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ServiceUnavailableError(
                f"{self.url} does not answer as APIShield does: {error}", sent=True
            ) from error

    def unavailable(self, error: httpx2.TransportError) -> ServiceUnavailableError:
        """``error`` of the transport in our tree; it knows whether the service can have seen the request."""
        sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        reason = str(error) or type(error).__name__
        return ServiceUnavailableError(f"{self.url} can't be reached: {reason}", sent=sent)

    def pause_before_retry(self, call: Call[Any], error: APIShieldError, attempt: int) -> float | None:
        """Seconds to wait before ``call`` is sent again; ``None`` where it must not be, or was often enough.

        What can't have arrived is sent again; what may have, only where that does no harm.
        """
        if attempt >= self._retries:
            return None
        pause: float = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
        match error:
            case ServiceUnavailableError(sent=False):
                return pause
            case ServiceUnavailableError() | ServerError(status=502 | 503 | 504) if call.repeatable:
                return pause
            case TooManyRequestsError(retry_after_seconds=int(seconds)) if seconds <= LONGEST_PAUSE_SECONDS:
                return float(seconds)
        return None


def transport_options(url: str) -> dict[str, Any]:
    """Options of an httpx2 transport for ``url``; certificates are loaded only where TLS is spoken (it takes 20 ms)."""
    limits = httpx2.Limits(
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_CONNECTIONS,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    return {"limits": limits, "verify": url.startswith("https:")}


def checked_url(url: str) -> str:
    """``url`` without a trailing slash. Raises ``ConfigurationError`` where it is not that of a service."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"The URL of APIShield is {url!r}; give one such as http://localhost:8000.")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("The URL of APIShield holds credentials; give them as api_key or token.")
    return url.rstrip("/")


def _bearer(name: str, credential: str | None) -> dict[str, str]:
    if credential is None:
        return {}
    if not credential.isascii() or not credential.isprintable() or " " in credential or not credential:
        raise ConfigurationError(f"{name} holds characters that no credential has; copy it again, whole.")
    return {"Authorization": f"Bearer {credential}"}
