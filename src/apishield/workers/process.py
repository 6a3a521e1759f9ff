"""What ``apishield worker`` runs, wired: the drain of this node's spools, and with Kafka the part that reads the topic.

Owns: which jobs a process does, and the order in which they end. Does not own: the jobs (``workers.ledger``,
``workers.publish``, ``workers.consume``), when the process is told to stop (``cli.worker``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING

import structlog

from apishield.bootstrap import SPOOL_DIRECTORY, load_secrets, open_database
from apishield.clock import system_clock
from apishield.core.key_manager.format import SecretKind, inspect
from apishield.core.key_manager.hashing import digest
from apishield.core.ports import Clock
from apishield.errors import APIShieldError, ConfigurationError, MissingExtra, ProblemError
from apishield.services.drain import Ledger, SpoolDrain
from apishield.services.installation import operator_digests
from apishield.services.ledger import LedgerService
from apishield.services.loops import METRICS_SECONDS, Loop
from apishield.services.secret_check import check_secret
from apishield.settings import Settings
from apishield.stores.data_directory import DataDirectory
from apishield.stores.sql.database import Database
from apishield.telemetry import Metrics
from apishield.telemetry.metrics import METRICS_DIRECTORY
from apishield.telemetry.parts import show_drain, show_ledger, show_spool_room
from apishield.telemetry.tracing import start_tracing, traced
from apishield.workers.ledger import LedgerWorker
from apishield.workers.listener import MetricsListener

if TYPE_CHECKING:
    from apishield.workers.consume import Consumer
    from apishield.workers.publish import Publisher

log = structlog.get_logger("apishield.worker")

_PAUSE_SECONDS = 0.5


def owner_name() -> str:
    """What this process is called in the ledger's claims: ``host:process``."""
    return f"{socket.gethostname()}:{os.getpid()}"[:200]


class WorkerProcess:
    """The jobs of one process. ``beside_service``: ``serve`` has started it, and it does what its own node needs.

    Alone it also reads Kafka's topic, where there is one, and waits for a database that is being migrated. What the parts
    count is in ``ledger.stats``, ``drain.stats``, ``drain.spools.stats``, ``publisher.stats`` and ``consumer.stats``.
    Constructing one raises ``ConfigurationError`` where the data directory can't be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        beside_service: bool,
        metrics_at: tuple[str, int] | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._tracing = start_tracing()
        self.drain: SpoolDrain | None = None
        self.publisher: Publisher | None = None
        self.consumer: Consumer | None = None
        self._beside_service, self._clock = beside_service, clock
        self._root = settings.data_dir / SPOOL_DIRECTORY
        DataDirectory(settings.data_dir).prepare()
        self._database = open_database(settings, load_secrets(settings), clock)
        self.ledger = LedgerService(self._database, clock, replay_days=settings.replay_days, observer=self.metrics)
        show_ledger(self.metrics, self.ledger.stats)
        show_spool_room(self.metrics, self._root, settings.spool_bytes)
        self._listener: MetricsListener | None = None
        if metrics_at is not None:
            host, port = metrics_at
            self._listener = MetricsListener(self.metrics, self._is_operator, host=host, port=port)

    async def run(self, stopping: asyncio.Event) -> None:
        """Works until ``stopping`` is set, takes what is left, and lets go of all connections.

        Raises ``ConfigurationError`` for what an operator can mend, ``APIShieldError`` where the database never came.
        """
        publishing = Loop("metrics", self.metrics.publish, METRICS_SECONDS)
        try:
            if not self._beside_service:
                await self._prepare(stopping)
            await self.metrics.join(self.settings.data_dir / METRICS_DIRECTORY, "ledger", self._clock)
            publishing.start()
            if self._listener is not None:
                await self._listener.start()
            log.info("worker.started", owner=owner_name(), kafka=bool(self.settings.kafka_bootstrap_servers))
            await _all(self._jobs(stopping), stopping)
        finally:
            if self.publisher is not None:
                await asyncio.to_thread(self.publisher.close)
            await publishing.stop()
            if self._listener is not None:
                await self._listener.close()
            await self.metrics.leave()
            if self._tracing is not None:
                await self._tracing.close()
            await self._database.close()
        log.info("worker.stopped")

    async def _is_operator(self, secret: str) -> bool:
        if inspect(secret).kind is not SecretKind.OPERATOR_TOKEN:
            return False
        secrets = load_secrets(self.settings)
        known = await operator_digests(self._database, secrets, self.settings.operator_token)
        return any(digest(secrets.pepper(version), secret) in known for version in secrets.versions)

    async def _prepare(self, stopping: asyncio.Event) -> None:
        await wait_for(self._database, self.settings.startup_timeout_seconds, stopping)
        await check_secret(self._database, load_secrets(self.settings))

    def _jobs(self, stopping: asyncio.Event) -> list[Awaitable[None]]:
        settings, owner = self.settings, owner_name()
        seconds = settings.shutdown_timeout_seconds
        if not settings.kafka_bootstrap_servers:
            return [self._drain_into(self.ledger, owner).run(stopping, finish_within_seconds=seconds)]
        try:
            from apishield.workers.consume import Consumer  # noqa: PLC0415  only where Kafka is used
            from apishield.workers.publish import Publisher  # noqa: PLC0415
        except ModuleNotFoundError as error:
            needs = f"What KAFKA_BOOTSTRAP_SERVERS needs ({error.name})"
            raise ConfigurationError(str(MissingExtra(needs, "kafka"))) from None
        from apishield.telemetry.kafka import show_consumer, show_publisher  # noqa: PLC0415

        self.publisher = Publisher(self._root, settings, self._database, self._clock)
        show_publisher(self.metrics, self.publisher.stats, self._clock)
        drain = self._drain_into(self.publisher, owner)
        jobs: list[Awaitable[None]] = [drain.run(stopping, finish_within_seconds=seconds)]
        if not self._beside_service:
            self.consumer = Consumer(
                settings, self._database, traced(self.ledger, self._tracing), self._clock, owner=owner
            )
            show_consumer(self.metrics, self.consumer.stats)
            jobs.append(self.consumer.run(stopping))
        return jobs

    def _drain_into(self, ledger: Ledger, owner: str) -> LedgerWorker:
        worker = LedgerWorker(
            self._root, traced(ledger, self._tracing), self._clock, owner=owner, max_bytes=self.settings.spool_bytes
        )
        self.drain = worker.drain
        show_drain(self.metrics, worker.drain, self._clock)
        return worker


async def wait_for(database: Database, longest_seconds: float, stopping: asyncio.Event) -> None:
    """Waits until ``database`` can be used; returns early where ``stopping`` is set.

    Raises ``ConfigurationError`` where its schema stays another version's, ``APIShieldError`` where it stays away.
    """
    clock = asyncio.get_running_loop().time
    ends, told = clock() + longest_seconds, False
    while not stopping.is_set():
        try:
            await database.check()
        except (ConfigurationError, ProblemError) as error:
            if clock() > ends:
                raise _in_vain(error, longest_seconds) from None
            if not told:
                log.warning("worker.waits_for_the_database", reason=str(error), gives_up_in_seconds=longest_seconds)
            told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _PAUSE_SECONDS)
        else:
            return


def _in_vain(error: APIShieldError, seconds: float) -> APIShieldError:
    waited = f"Waited {seconds:g} s."
    if isinstance(error, ConfigurationError):
        return ConfigurationError(
            f"The worker can't use the database: {error}. {waited} `apishield serve` migrates it."
        )
    return APIShieldError(f"DATABASE_URL names a database that can't be reached. {waited} Start it, or mend the URL.")


async def _all(jobs: Iterable[Awaitable[None]], stopping: asyncio.Event) -> None:
    """Runs the jobs together; where one fails the others end, too. Raises what the first of them raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    stopping.set()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
