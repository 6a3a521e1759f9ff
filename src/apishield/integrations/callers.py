"""Who is calling: the key that a request presents, and the address it comes from.

A key is taken from ``key_header`` as it stands, and from ``Authorization: Bearer`` only where it begins like one of ours
(``sk_``): an app's own JWT is not an API key. An address is the peer's, unless the peer is a trusted proxy.

Of the forwarding headers one is named and the others are never read: a proxy that sets one passes on whatever the client
wrote into the others. Sources: RFC 7239 (``Forwarded``); ``X-Forwarded-For`` has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from apishield.core.abuse_detector.addresses import Network, client_address, parse_network
from apishield.core.paths import MAX_PATH_CHARACTERS
from apishield.errors import ConfigurationError

LONGEST_KEY = 1024  # longer ones are cut: no key is as long, and a header must not become a body of 1 MiB
LONGEST_USER_AGENT = 512
UNIX_PEER = "unix"
_PATH_CHARACTERS = "/-._~!$&'()*+,;=:@"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)', re.IGNORECASE)

ReadHeader = Callable[[str], str | None]
"""The value of a header by its lower-case name; several of one name joined by commas; ``None`` where there is none."""


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """What a check is made from. ``path`` is as the app sees it, percent-encoded, without the query."""

    method: str
    path: str | None
    api_key: str | None
    ip: str | None
    user_agent: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class CallerRules:
    """Where an app finds its callers' keys and addresses."""

    key_header: str
    bearer_prefixes: tuple[str, ...]
    trusted: tuple[Network, ...]
    trusts_unix_peers: bool
    forwarded_header: str

    @classmethod
    def of(
        cls,
        *,
        key_header: str = "X-API-Key",
        bearer_prefixes: Iterable[str] = ("sk_",),
        trusted_proxies: Iterable[str] = (),
        forwarded_header: str = "X-Forwarded-For",
    ) -> CallerRules:
        """The rules that options spell. Raises ``ConfigurationError`` with the option's name."""
        if isinstance(trusted_proxies, str) or isinstance(bearer_prefixes, str):
            raise ConfigurationError(
                "trusted_proxies and bearer_prefixes are lists; write ['10.0.0.0/8'], not '10.0.0.0/8'."
            )
        networks: list[Network] = []
        proxies = list(trusted_proxies)
        for proxy in proxies:
            network = parse_network(proxy)
            if network is None and proxy != UNIX_PEER:
                raise ConfigurationError(
                    f"trusted_proxies has {proxy!r}; give addresses or networks such as 10.0.0.0/8, or 'unix' for a "
                    "server that listens on a Unix socket."
                )
            if network is not None:
                networks.append(network)
        return cls(
            key_header=key_header.lower(),
            bearer_prefixes=tuple(bearer_prefixes),
            trusted=tuple(networks),
            trusts_unix_peers=UNIX_PEER in proxies,
            forwarded_header=forwarded_header.lower(),
        )

    @property
    def header_names(self) -> frozenset[str]:
        """The headers that ``read`` may ask for."""
        return frozenset({self.key_header, "authorization", self.forwarded_header, "user-agent", "x-request-id"})

    def read(self, method: str, path: str, header: ReadHeader, peer: str | None) -> Incoming:
        """What is asked of a request with the decoded ``path``, from ``peer`` (``None``: over a Unix socket)."""
        user_agent = header("user-agent")
        request_id = header("x-request-id")
        return Incoming(
            method=method,
            path=_spelled(path),
            api_key=self._key(header),
            ip=self._address(header, peer),
            user_agent=None if user_agent is None else user_agent[:LONGEST_USER_AGENT],
            request_id=request_id if request_id is not None and _SANE_REQUEST_ID.fullmatch(request_id) else None,
        )

    def _key(self, header: ReadHeader) -> str | None:
        key = header(self.key_header)
        if key is not None and (key := key.strip()):
            return key[:LONGEST_KEY]
        authorization = header("authorization")
        if authorization is None:
            return None
        scheme, _, credential = authorization.partition(" ")
        credential = credential.strip()
        if scheme.lower() == "bearer" and credential and credential.startswith(self.bearer_prefixes):
            return credential[:LONGEST_KEY]
        return None

    def _address(self, header: ReadHeader, peer: str | None) -> str | None:
        trusted: Sequence[Network] = self.trusted
        hops: list[str] = []
        if trusted or self.trusts_unix_peers:
            hops = _hops(self.forwarded_header, header(self.forwarded_header) or "")
        if peer is None and self.trusts_unix_peers:
            # A proxy on this machine, which has no address: its last hop is taken as the peer.
            if not hops:
                return None
            peer = hops.pop()
        address = client_address(peer, hops, trusted)
        return None if address is None else address.text


def _spelled(path: str) -> str | None:
    """``path`` percent-encoded; cut where it is too long anyway, absent where it is none (``OPTIONS *``)."""
    if not path.startswith("/"):
        return None
    return quote(path, safe=_PATH_CHARACTERS, errors="replace")[: MAX_PATH_CHARACTERS + 1]


def _hops(name: str, value: str) -> list[str]:
    """The addresses that a forwarding header names, leftmost first; what can't be read stays in, as it ends the walk."""
    hops = [hop.strip() for hop in value.split(",")] if value else []
    if name != "forwarded":
        return hops
    return [found.group(1).strip('"') if (found := _FORWARDED_FOR.search(hop)) else "" for hop in hops]
