"""How a process without a server learns that it shall stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def run_until_stopped(run: Callable[[asyncio.Event], Awaitable[None]], *, with_parent: bool) -> None:
    """Runs ``run``, and sets its event at SIGINT or SIGTERM; a second one ends it in the midst of its work.

    ``with_parent``: signals mean the service, which shall be stopped first, and service managers send them to all processes
    alike. So only the end of standard input counts: the parent closes it, or the kernel does where the parent is killed.
    """
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    working = asyncio.ensure_future(run(stopping))

    def stop() -> None:
        if stopping.is_set():
            working.cancel()
        stopping.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, _ignore if with_parent else stop)
    if with_parent:
        threading.Thread(target=_wait_for_end_of_input, args=(loop, stopping.set), daemon=True).start()
    try:
        await working
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


def _ignore() -> None: ...


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    loop.call_soon_threadsafe(stop)
