"""Heads of requests that were parsed before: clients on kept connections send the same bytes again and again.

A head that the parser took for one whole request to a direct route means the same the next time, byte for byte. So the parser
runs once a client, not once a check. Whatever differs in one byte goes to the parser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from apishield.api.dataplane.answers import Answered
from apishield.api.dataplane.headers import Headers, RequestHeaders

Direct = Callable[[Headers, bytes], Answered]
"""Answers one method of one path; never raises."""

END_OF_HEAD: Final = b"\r\n\r\n"
_LONGEST: Final = 2048
_MOST: Final = 1024


class KnownHead(NamedTuple):
    """What a head says: where the request goes, its headers, and how long its body is."""

    route: Direct
    headers: RequestHeaders
    body_bytes: int


class KnownHeads:
    """The heads that a process remembers; bounded, and forgotten all at once when there are too many."""

    __slots__ = ("_known", "get")

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}
        self.get = self._known.get

    def learn(self, head: bytes, route: Direct, headers: RequestHeaders, body_bytes: int) -> None:
        """Remembers a head of a request that was complete, kept its connection and went to a direct route.

        One whose length was not said in so many bytes (chunks) is not remembered.
        """
        said = [value for name, value in headers if name == b"content-length"]
        if len(head) > _LONGEST or any(name == b"transfer-encoding" for name, _ in headers):
            return
        if said not in ([b"%d" % body_bytes], [] if body_bytes == 0 else None):
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[head] = KnownHead(route, headers, body_bytes)
