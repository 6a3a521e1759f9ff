"""Where a request comes from, and whether that is this very machine.

A service on a loopback address trusts whoever runs programs on the machine, and nobody else. Two strangers can still reach it:
a page in the browser, by DNS rebinding (its ``Host`` is then a foreign name) or by a cross-site request (its ``Origin`` is
foreign), and a proxy on the machine (it says so in forwarding headers, or speaks HTTP/1.0 as Nginx does by default). None
of them counts as local. A proxy that does neither can't be told apart: behind one, close the sign-up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from apishield.core.abuse_detector.addresses import Address, Network, client_address, parse_network
from apishield.errors import ProblemError
from apishield.settings import Settings

_is_forwarding = re.compile(
    r"via|forwarded|x-real-ip|x-original-.*|x-forwarded.*|x-envoy-.*|cf-.*|.*client-ip"
).fullmatch


class Origins:
    """Answers where a request comes from, by the settings of this node."""

    def __init__(self, settings: Settings) -> None:
        self.loopback_bind = settings.loopback
        self.signup_forced = settings.signup == "open"
        self.signup_open = settings.signup_open
        self.allowed_hosts = frozenset(host.lower().rstrip(".") for host in settings.allowed_hosts)
        self.trusted: Sequence[Network] = [
            network for text in settings.trusted_proxies if (network := parse_network(text)) is not None
        ]

    def address(self, scope: Scope) -> str | None:
        """The client's address: the peer's, or what trusted proxies say."""
        found = self._client(scope)
        return found.text if found else None

    def counted(self, scope: Scope) -> str | None:
        """What limits count by: the client's address, or the /64 that an IPv6 subscriber holds as a whole."""
        found = self._client(scope)
        return found.counted if found else None

    def _client(self, scope: Scope) -> Address | None:
        peer = scope.get("client")
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
        return client_address(peer[0] if peer else None, forwarded.split(",") if forwarded else [], self.trusted)

    def is_local(self, scope: Scope) -> bool:
        """Whether a program on this machine asks, by itself."""
        headers = Headers(scope=scope)
        peer = scope.get("client")
        return (
            self.loopback_bind
            and peer is not None
            and is_loopback(peer[0])
            and is_loopback(host_name(headers.get("host", "")))
            and scope.get("http_version") != "1.0"
            and not any(_is_forwarding(name) for name in headers)
            and all(is_loopback(_origin_name(origin)) for origin in headers.getlist("origin"))
        )

    def may_sign_up(self, scope: Scope) -> bool:
        """Whether a tenant may be made without a credential."""
        return self.signup_forced or (self.signup_open and self.is_local(scope))

    def check_host(self, scope: Scope) -> None:
        """Raises ``host_not_allowed`` where this node listens on loopback and the request names another host."""
        if not self.loopback_bind:
            return
        headers = Headers(scope=scope)
        name = host_name(headers.get("host", ""))
        if len(headers.getlist("host")) > 1 or not (is_loopback(name) or name in self.allowed_hosts):
            raise ProblemError(
                "host_not_allowed",
                f"The Host {name[:80]!r} is not one that this service answers to. Use localhost, or list the name in "
                "APISHIELD_ALLOWED_HOSTS.",
            )


class HostMiddleware:
    """Applies ``Origins.check_host`` to every request."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self.app = app
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http":
            self.origins.check_host(scope)
        await self.app(scope, receive, send)


def host_name(host: str) -> str:
    """The name in a ``Host`` header: without port, brackets and final dot, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if host.count(":") == 1 else host.rstrip(".")


def _origin_name(origin: str) -> str:
    """The name of the host in an ``Origin`` header; empty where it has none or makes no sense."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Whether ``name`` is this machine: a loopback address, ``localhost`` or a name under it (RFC 6761, section 6.3)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
