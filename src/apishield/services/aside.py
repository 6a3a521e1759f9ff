"""Work on large documents, out of the way of everybody else's checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

Result = TypeVar("Result")

SMALL: Final = 100
"""How many items are worked on in place: in less time than it takes to begin a thread's work."""


async def aside(size: int, work: Callable[[], Result]) -> Result:
    """What ``work`` returns. Where it is about more than a few items it runs in a thread, and the loop goes on meanwhile.

    ``work`` must be pure: it takes part in no transaction, and what it reads must not change under it.
    """
    return work() if size <= SMALL else await asyncio.to_thread(work)
