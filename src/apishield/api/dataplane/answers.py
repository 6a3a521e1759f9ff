"""What the data plane says to one request, before any server has put it on a wire."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole response. ``headers`` are without ``content-length``, which is the body's.

    ``otherwise`` is what is said in its place where what it tells of could not be written down. A check has none: it is
    decided, and counts in any case.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    otherwise: Callable[[], Answer] | None = None

    def unwritten(self) -> Answer:
        """What is said where the turn could not be written down."""
        return self if self.otherwise is None else self.otherwise()
