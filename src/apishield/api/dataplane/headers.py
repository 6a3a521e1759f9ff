"""The headers of a request to the data plane, read in one pass."""

from __future__ import annotations

import re
from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,128}")


class Asked:
    """What the headers of a request say; their size was bounded by the server before."""

    __slots__ = ("authorization", "content_type", "request_id", "tenant", "twice")

    def __init__(self, headers: Headers) -> None:
        self.authorization: bytes | None = None
        self.tenant: bytes | None = None
        self.content_type: bytes | None = None
        self.request_id: bytes | None = None
        self.twice = False
        for name, value in headers:
            if name == b"authorization":
                self.twice = self.authorization is not None
                self.authorization = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"x-request-id":
                self.request_id = value if _SANE_REQUEST_ID.fullmatch(value) is not None else None
            elif name == b"x-apishield-tenant":
                self.tenant = value


class RequestHeaders(list[tuple[bytes, bytes]]):
    """Headers that a server may hand over more than once, when they came again: they are then read once."""

    __slots__ = ("_asked",)
    _asked: Asked

    @property
    def asked(self) -> Asked:
        """What they say."""
        try:
            return self._asked
        except AttributeError:
            self._asked = asked = Asked(self)
            return asked


def read(headers: Headers) -> Asked:
    """What ``headers`` say."""
    return headers.asked if type(headers) is RequestHeaders else Asked(headers)
