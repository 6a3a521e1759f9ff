"""What a gateway says of the request that it holds.

The gateway sends its service key in ``X-APIShield-Token`` and the client's address, one value, in ``X-APIShield-Client-IP``;
it overwrites what a client sends under these names. The client's own key stands where the client put it.
"""

from __future__ import annotations

from collections.abc import Sequence

from apishield.core.decision import CheckRequest
from apishield.errors import ProblemError

_OURS = b"sk_"
_LONGEST_USER_AGENT = 512


class GatewayFacts:
    """The headers of a gateway's question, read in one pass."""

    __slots__ = ("address", "authorization", "key", "method", "request_id", "token", "uri", "user_agent")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.token: bytes | None = None
        self.method: bytes | None = None
        self.uri: bytes | None = None
        self.address: bytes | None = None
        self.key: bytes | None = None
        self.authorization: bytes | None = None
        self.user_agent: bytes | None = None
        self.request_id: bytes | None = None
        for name, value in headers:
            slot = _SLOTS.get(name)
            if slot is None:
                continue
            if slot in _ONCE and getattr(self, slot) is not None:
                raise ProblemError("bad_request", f"There are several {name.decode('latin-1')} headers; send one.")
            setattr(self, slot, value)

    def question(self, method: str, path: str) -> CheckRequest:
        """The check that the gateway asks about a request of ``method`` to ``path`` (its query is cut off)."""
        key = self.key
        if key is None and self.authorization is not None:
            scheme, _, credential = self.authorization.partition(b" ")
            # An app's own bearer tokens are none of ours: only what looks like a key is taken for one.
            if scheme.lower() == b"bearer" and credential.strip().startswith(_OURS):
                key = credential.strip()
        return CheckRequest(
            api_key=None if key is None else key.decode("latin-1"),
            ip=None if self.address is None else self.address.decode("latin-1"),
            method=method,
            path=path.partition("?")[0],
            user_agent=None if self.user_agent is None else self.user_agent[:_LONGEST_USER_AGENT].decode("latin-1"),
        )


_SLOTS = {
    b"x-apishield-token": "token",
    b"x-original-method": "method",
    b"x-original-uri": "uri",
    b"x-apishield-client-ip": "address",
    b"x-api-key": "key",
    b"authorization": "authorization",
    b"user-agent": "user_agent",
    b"x-request-id": "request_id",
}
_ONCE = frozenset({"token", "method", "uri", "address", "key", "authorization"})
