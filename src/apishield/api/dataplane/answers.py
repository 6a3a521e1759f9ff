"""What the data plane says to one request, before any server has put it on a wire."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole response. ``headers`` are without ``content-length``, which is the body's."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
