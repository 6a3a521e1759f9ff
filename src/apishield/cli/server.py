"""Runs the service under uvicorn: one process, or several under its supervisor.

Why uvicorn: docs/explanation/why-uvicorn.md.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.supervisors import Multiprocess

from apishield import environment
from apishield.api.asgi import create_asgi
from apishield.api.dataplane.app import DirectRoutes
from apishield.api.dataplane.heads import KnownHeads
from apishield.api.dataplane.outbox import Outbox
from apishield.bootstrap import build
from apishield.cli.protocol import STOP_STREAMS, BoundedHttpProtocol
from apishield.errors import APIShieldError
from apishield.settings import Settings
from apishield.telemetry import configure_logging

BACKLOG = 2048
# Longer than what proxies keep idle connections for, so that it is they who close first and never meet a closed one.
KEEP_ALIVE_SECONDS = 75
# A worker can't answer its supervisor while it loads its parts: on a busy machine that takes longer than uvicorn's 5 s,
# and a worker that is ended for it starts again, for ever.
WORKER_PATIENCE_SECONDS = 60
EXIT_FAILED = 1

log = structlog.get_logger("apishield")


class Service:
    """The ASGI application of one process: builds the service when its life begins, then hands every request over."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.direct: DirectRoutes = {}
        self.outbox: Outbox
        self.heads: KnownHeads
        self._app: ASGIApp = self._live

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Not ``async``: a frame less for every request."""
        return self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            raise RuntimeError("a request came before the service was started")
        await receive()
        try:
            runtime = await build(self.settings)
            await runtime.start()
        except APIShieldError as error:
            log.error("the service can't start", reason=str(error))
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        application = create_asgi(runtime)
        self.direct, self.outbox, self.heads = application.direct, application.outbox, application.heads
        self._app = application
        # What uvicorn hands to every connection, which hears of a shutdown first.
        scope.get("state", {})[STOP_STREAMS] = runtime.live.stop
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await runtime.close()
        await send({"type": "lifespan.shutdown.complete"})


def make_service() -> Service:
    """What each process of uvicorn calls: the service, with the settings of the environment."""
    settings = environment.load().settings
    configure_logging(settings.log_level, settings.log_format)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    _end_with_parent()
    return Service(settings)


def serve(settings: Settings, listener: socket.socket, announce: Callable[[], None]) -> int:
    """Serves on ``listener`` until told to stop; returns the exit code. ``announce`` is called once requests are answered.

    SIGTERM and Ctrl-C let requests in flight finish; a second Ctrl-C does not wait for them.
    """
    config = uvicorn.Config(
        "apishield.cli.server:make_service",
        factory=True,
        interface="asgi3",
        loop="auto",
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who is trusted for an address is a setting of ours
        server_header=False,
        workers=settings.workers,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
        timeout_worker_healthcheck=WORKER_PATIENCE_SECONDS,
    )
    # uvicorn drains, then raises the signal again; by then all is done.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    try:
        if settings.workers > 1:
            return _serve_in_several(config, listener, announce)
        return _serve_here(config, listener, announce)
    except KeyboardInterrupt:
        return 0
    except SystemExit as exit_:  # uvicorn's way to say that the start failed; the reason was logged
        return EXIT_FAILED if exit_.code else 0


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._announce()


def _serve_here(config: uvicorn.Config, listener: socket.socket, announce: Callable[[], None]) -> int:
    server = _AnnouncingServer(config, announce)
    server.run(sockets=[listener])
    return 0 if server.started else EXIT_FAILED


def _serve_in_several(config: uvicorn.Config, listener: socket.socket, announce: Callable[[], None]) -> int:
    supervisor = Multiprocess(config, sockets=[listener])

    def announce_when_ready() -> None:
        while not supervisor.should_exit.wait(0.05):
            with socket.socket(listener.family) as probe:
                if probe.connect_ex(_reachable(listener.getsockname())) == 0:
                    announce()
                    return

    threading.Thread(target=announce_when_ready, daemon=True).start()
    supervisor.run()
    # A worker that was told to stop drains, and then ends by the signal.
    fine = {0, None, -signal.SIGTERM, -signal.SIGINT}
    return 0 if all(process.exitcode in fine for process in supervisor.processes) else EXIT_FAILED


def _reachable(address: tuple[Any, ...]) -> tuple[Any, ...]:
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not bound
    return (loopback.get(address[0], address[0]), *address[1:])


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Keeps uvicorn from logging a failure, with its traceback, of each task that a second Ctrl-C or the time-out ends."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _end_with_parent() -> None:
    """In a worker: stops when the supervisor is gone (kill -9), so that no orphan keeps the port and old settings."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_and_stop() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_and_stop, name="parent-watch", daemon=True).start()
