"""The one place where things are wired: from settings to a node that can serve.

``prepare`` does, once, what a start needs before any worker runs (files, schema, secret, operator); ``build`` makes a
``Runtime``, one a process; ``Runtime.start`` and ``close`` are the process's life.
"""

from __future__ import annotations

import asyncio
import secrets as system_random
from collections.abc import Callable

import msgspec
import structlog

from apishield.clock import system_clock
from apishield.core.decision_ids import DecisionIds
from apishield.core.model import SECOND_US
from apishield.core.ports import Clock, CounterStore
from apishield.errors import APIShieldError
from apishield.services import installation
from apishield.services.analytics.addresses import AddressService
from apishield.services.analytics.decisions import DecisionService
from apishield.services.analytics.live import LiveService
from apishield.services.analytics.service import AnalyticsService
from apishield.services.audit import AuditService
from apishield.services.backlog import Pipeline
from apishield.services.blocks import BlockService
from apishield.services.customers import CustomerService
from apishield.services.drain import EVENTS_BESIDE_CHECKS, SpoolDrain
from apishield.services.endpoints import EndpointService
from apishield.services.engine import Engine
from apishield.services.freshness import Freshness
from apishield.services.idempotency import IdempotencyService
from apishield.services.keys import KeyService
from apishield.services.ledger import LedgerService
from apishield.services.loops import (
    FLUSH_SECONDS,
    HEARTBEAT_SECONDS,
    HOUSEKEEPING_SECONDS,
    LEDGER_SECONDS,
    METRICS_SECONDS,
    OPERATOR_SECONDS,
    POLL_SECONDS,
    RECONCILE_SECONDS,
    SPOOL_SECONDS,
    Loop,
)
from apishield.services.orphans import OrphanedCharges
from apishield.services.policies import PolicyService
from apishield.services.reconcile import HASTY_SECONDS, Reconciler
from apishield.services.recorder import DecisionRecorder
from apishield.services.replay import ReplayService, forget_old_replays
from apishield.services.reports import ReportService
from apishield.services.secret_check import check_secret
from apishield.services.secrets import Secrets
from apishield.services.settlement import SettlementService
from apishield.services.shadow import forget_old
from apishield.services.snapshot import Snapshot
from apishield.services.tenants import TenantService
from apishield.services.tokens import TokenService
from apishield.services.usage import UsageService
from apishield.settings import Settings
from apishield.stores.data_directory import DataDirectory
from apishield.stores.failover import FailoverStore
from apishield.stores.memory import MemoryStore
from apishield.stores.redis.connection import connect
from apishield.stores.redis.notices import ChangeNotices
from apishield.stores.redis.store import RedisStore
from apishield.stores.spool import Spools, SpoolWriter
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.archive import DecisionArchive
from apishield.telemetry import Metrics
from apishield.telemetry.metrics import METRICS_DIRECTORY
from apishield.telemetry.parts import (
    show_decisions,
    show_drain,
    show_ledger,
    show_loops,
    show_reconcile,
    show_snapshot,
    show_spool_room,
    show_spool_writer,
    show_store,
)
from apishield.telemetry.tracing import start_tracing, traced

log = structlog.get_logger("apishield.node")

Entropy = Callable[[int], bytes]
SPOOL_DIRECTORY = "spool"
_ALIVE_FOR_US = 10 * SECOND_US
_NODES_KEPT_US = 86_400 * SECOND_US
_QUOTAS_KEPT_US = 400 * 86_400 * SECOND_US


class Prepared(msgspec.Struct, frozen=True):
    """What a start found or made. ``operator_token`` is there only when it was made just now."""

    operator_token: str | None


def load_secrets(settings: Settings) -> Secrets:
    """The master secret: the given one, else the data directory's, which is made at the first start (SQLite only)."""
    if settings.secret is not None:
        return Secrets.parse(settings.secret)
    return Secrets.parse(DataDirectory(settings.data_dir).secret(Secrets.generate))


def open_database(settings: Settings, secrets: Secrets, clock: Clock) -> Database:
    """The database of the settings, signing its audit log."""
    return Database(settings.effective_database_url, clock, audit_key=secrets.audit_key())


async def prepare(
    settings: Settings, *, clock: Clock = system_clock, entropy: Entropy = system_random.token_bytes
) -> Prepared:
    """Makes the data directory, migrates the database, compares the secret, makes an operator's token where needed.

    Raises ``ConfigurationError`` for what an operator can mend, ``ProblemError`` where the database can't be reached.
    """
    directory = DataDirectory(settings.data_dir)
    directory.prepare()
    directory.warn_of_open_secret()
    secrets = load_secrets(settings)
    database = open_database(settings, secrets, clock)
    try:
        await database.migrate()
        await check_secret(database, secrets)
        if settings.operator_token is not None:
            return Prepared(None)
        return Prepared(await installation.ensure_operator(database, secrets, entropy))
    finally:
        await database.close()


def open_spool(settings: Settings, entropy: Entropy, clock: Clock) -> SpoolWriter:
    """A new spool in the data directory. Raises ``APIShieldError`` where it can't be made, as on a full disk."""
    root = settings.data_dir / SPOOL_DIRECTORY
    try:
        return SpoolWriter(root, int.from_bytes(entropy(4), "big"), clock, max_bytes=settings.spool_bytes)
    except OSError as error:
        raise APIShieldError(
            f"The spool of events at '{root}' can't be made ({error.strerror}). Free some space, or mend its permissions."
        ) from error


class Runtime:
    """One process's parts, wired. ``build`` makes it."""

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        database: Database,
        operator_digests: frozenset[bytes],
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.settings = settings
        self.secrets = secrets
        self.database = database
        self.clock = clock
        self.entropy = entropy
        self.metrics = Metrics()
        self.tracing = start_tracing()
        peppers = {version: secrets.pepper(version) for version in secrets.versions}
        self.snapshot = Snapshot(database.feed, clock, peppers, operator_digests)
        self.usage = UsageService(self.snapshot, database, clock)
        self.live_nodes = 1
        self.store = self._make_store()
        mac_keys = [secrets.derive("decision ids", version) for version in secrets.versions]
        self.events = open_spool(settings, entropy, clock)
        self.decision_ids = ids = DecisionIds(mac_keys, self.events.spool)
        self.node_id = f"node_{entropy(8).hex()}"
        self.drain = self._make_drain()
        self.freshness = Freshness(
            database,
            self.events,
            can_wait=settings.ledger == "worker" and not settings.kafka_bootstrap_servers,
            drain=None if self.drain is None else self.drain.catch_up,
        )
        self.usage.use(self.store, self.freshness.wait)
        self.recorder = DecisionRecorder(self.events, self.usage, self.metrics.checks, self.metrics.limit_refusals.add)
        self.engine = Engine(
            self.snapshot,
            self.store,
            ids,
            clock,
            self.recorder,
            snapshot_max_age_us=settings.snapshot_max_age_seconds * SECOND_US,
            observe_store=self.metrics.store_seconds.observe,
            draft_headers=settings.rate_limit_headers in {"both", "draft"},
            legacy_headers=settings.rate_limit_headers in {"both", "legacy"},
        )
        self.settlement = SettlementService(self.store, ids, self.events, clock)
        self.reports = ReportService(ids, self.settlement, clock, self.events)
        self.tenants = TenantService(database, secrets, entropy=entropy)
        self.tokens = TokenService(database, secrets, entropy=entropy)
        self.keys = KeyService(database, secrets, entropy=entropy)
        self.customers = CustomerService(database, secrets, entropy=entropy)
        self.policies = PolicyService(database, secrets, entropy=entropy)
        self.endpoints = EndpointService(database, secrets, entropy=entropy)
        self.blocks = BlockService(database, secrets, entropy=entropy)
        self.audit = AuditService(database, secrets)
        self.analytics = AnalyticsService(database, clock, self.freshness.wait)
        archive = DecisionArchive(database, replay_days=settings.replay_days)
        self.decisions = DecisionService(archive, ids, clock, self.freshness.wait)
        self.addresses = AddressService(database, self.decisions, self.freshness.wait)
        self.live = LiveService(database, self.decisions, clock)
        pipeline = Pipeline(database, settings, settings.data_dir / SPOOL_DIRECTORY)
        self.reconciler = Reconciler(database, self.snapshot, self.store, clock, self._make_orphans(), pipeline)
        self.replays = ReplayService(
            database,
            archive,
            self.snapshot,
            clock,
            replay_days=settings.replay_days,
            entropy=entropy,
            freshness=self.freshness.wait,
        )
        self.idempotency = IdempotencyService(database, secrets)
        self._started_at_us = 0
        self._feed = Loop("snapshot", self.snapshot.catch_up, POLL_SECONDS)
        self._reconciling = Loop("reconcile", self._reconcile, RECONCILE_SECONDS)
        self._loops = [
            self._feed,
            Loop("usage", self.usage.flush, FLUSH_SECONDS),
            Loop("spool", self.events.tick, SPOOL_SECONDS),
            Loop("heartbeat", self._beat, HEARTBEAT_SECONDS),
            Loop("renewal", self._renew_secrets, FLUSH_SECONDS),
            Loop("operator", self._learn_operator, OPERATOR_SECONDS),
            Loop("housekeeping", self._keep_house, HOUSEKEEPING_SECONDS),
            self._reconciling,
            Loop("metrics", self.metrics.publish, METRICS_SECONDS),
        ]
        if self.drain is not None:
            self._loops.append(Loop("ledger", self.drain.catch_up, LEDGER_SECONDS))
        self._notices = self._make_notices()
        database.on_commit(self._committed)
        self._show_metrics()

    async def start(self) -> None:
        """Loads the snapshot and begins to keep up. Raises ``ProblemError`` where the database can't be reached."""
        self._started_at_us = self.clock()
        await self.snapshot.load()
        await self.metrics.join(self.settings.data_dir / METRICS_DIRECTORY, "api", self.clock)
        for loop in self._loops:
            loop.start()
        if self._notices is not None:
            self._notices.start(self._feed.wake)
        log.info("node.started", node=self.node_id, keys=len(self.snapshot))

    async def close(self) -> None:
        """Ends the loops, writes what was noted, lets go of every connection. What can't be written is said in the log."""
        self.live.stop()
        for loop in reversed(self._loops):
            await loop.stop()
        await self.replays.close()
        try:
            await self.store.close()  # first: it may still have something to note
            await self.usage.flush()
            async with self.database.transaction() as tx:
                await tx.meta.leave(self.node_id)
        except Exception as error:  # noqa: BLE001  the process ends in any case
            log.error("node.not_flushed", error=f"{type(error).__name__}: {error}"[:500])
        self.events.close()
        if self.drain is not None:
            await self._drain_the_rest(self.drain)
        if self._notices is not None:
            await self._notices.close()
        await self.usage.close()
        await self.database.close()
        await self.metrics.leave()
        if self.tracing is not None:
            await self.tracing.close()
        log.info("node.stopped", node=self.node_id)

    def _show_metrics(self) -> None:
        self.metrics.show_data_plane()
        self.metrics.gauge("apishield_live_nodes", lambda: self.live_nodes)
        show_snapshot(self.metrics, self.snapshot)
        show_decisions(self.metrics, self.usage.shadow, lambda: self.recorder.degraded_decisions)
        show_store(self.metrics, self.store)
        show_spool_writer(self.metrics, self.events.stats)
        show_spool_room(self.metrics, self.settings.data_dir / SPOOL_DIRECTORY, self.settings.spool_bytes)
        show_loops(self.metrics, self._loops)
        show_reconcile(self.metrics, self.reconciler.stats)
        if self.drain is not None:
            show_drain(self.metrics, self.drain, self.clock)

    async def _beat(self) -> None:
        now_us = self.clock()
        async with self.database.transaction() as tx:
            await tx.meta.beat(self.node_id, started_at_us=self._started_at_us, now_us=now_us)
            self.live_nodes = max(1, await tx.meta.live_nodes(since_us=now_us - _ALIVE_FOR_US))

    async def _renew_secrets(self) -> None:
        """Stores secrets that were verified under an older pepper under the newest one, so that the old can be retired."""
        while self.snapshot.outdated:
            stored_digest, (tenant_id, secret) = self.snapshot.outdated.popitem()
            await self.keys.renew(tenant_id, stored_digest, secret)

    async def _learn_operator(self) -> None:
        """A token that was renewed on another node, or from the command line, counts here within a second."""
        digests = await installation.operator_digests(self.database, self.secrets, self.settings.operator_token)
        self.snapshot.know_operator(digests)

    async def _keep_house(self) -> None:
        """Forgets nodes that are long gone and periods that nobody asks about."""
        now_us = self.clock()
        async with self.database.transaction() as tx:
            await tx.meta.forget_nodes(before_us=now_us - _NODES_KEPT_US)
            await tx.usage.forget_quotas(before_us=now_us - _QUOTAS_KEPT_US)
            await forget_old(tx, now_us)
            await forget_old_replays(tx, now_us)

    async def _reconcile(self) -> None:
        """Looks after the quotas: each process after its own counters, of those that share some one for all."""
        if self.settings.redis_url is not None:
            async with self.database.read() as tx:
                first = await tx.meta.first_node(since_us=self.clock() - _ALIVE_FOR_US)
            if first != self.node_id:
                self.reconciler.rest()
                return
        await self.reconciler.tend()
        if self.reconciler.is_hasty:
            asyncio.get_running_loop().call_later(HASTY_SECONDS, self._reconciling.wake)

    async def _committed(self, sequence: int) -> None:
        """After a change: this node knows it before the answer goes out; the others hear of it."""
        if self._notices is not None:
            self._notices.publish(sequence)
        await self.snapshot.catch_up()

    def _make_drain(self) -> SpoolDrain | None:
        """What takes events into the ledger where this process does so itself."""
        if self.settings.ledger != "inline" or self.settings.kafka_bootstrap_servers:
            return None
        spools = Spools(self.settings.data_dir / SPOOL_DIRECTORY, max_bytes=self.settings.spool_bytes)
        ledger = LedgerService(self.database, self.clock, replay_days=self.settings.replay_days, observer=self.metrics)
        show_ledger(self.metrics, ledger.stats)
        return SpoolDrain(
            spools,
            traced(ledger, self.tracing),
            self.clock,
            owner=self.node_id,
            events_at_once=EVENTS_BESIDE_CHECKS,
        )

    async def _drain_the_rest(self, drain: SpoolDrain) -> None:
        try:
            await drain.catch_up()
        except Exception as error:  # noqa: BLE001  what is left waits on the disk for the next start
            log.warning("ledger.not_drained", error=f"{type(error).__name__}: {error}"[:500])
        drain.close()

    def _make_store(self) -> CounterStore:
        url = self.settings.redis_url
        if url is None:
            return MemoryStore(self.clock, self.usage)
        redis = RedisStore(url, self.usage, timeout_ms=self.settings.redis_timeout_ms)
        return FailoverStore(
            redis,
            self.clock,
            self.usage,
            live_nodes=lambda: self.live_nodes,
            place_of=redis.place_of,
            is_kept=self.usage.keeps,
            on_healed=self._store_healed,
        )

    def _make_orphans(self) -> OrphanedCharges | None:
        """What gives orphaned charges back, where no other node's events can be missing from the ledger."""
        alone = self.settings.sqlite and not self.settings.kafka_bootstrap_servers
        if not alone or not isinstance(self.store, MemoryStore):
            return None
        return OrphanedCharges(
            self.database,
            self.store,
            self.freshness,
            self.clock,
            spools=self.settings.data_dir / SPOOL_DIRECTORY,
            spool=self.events.spool,
            is_kept=self.usage.keeps,
        )

    def _store_healed(self) -> None:
        """What this node admitted without the store is looked at now, not at the next round."""
        self.reconciler.hasten()
        self._reconciling.wake()

    def _make_notices(self) -> ChangeNotices | None:
        return None if self.settings.redis_url is None else ChangeNotices(connect(self.settings.redis_url))


async def build(
    settings: Settings, *, clock: Clock = system_clock, entropy: Entropy = system_random.token_bytes
) -> Runtime:
    """Makes the parts of one process, after ``prepare``. Raises ``ProblemError`` where the database can't be reached."""
    secrets = load_secrets(settings)
    database = open_database(settings, secrets, clock)
    try:
        digests = await installation.operator_digests(database, secrets, settings.operator_token)
        return Runtime(settings, secrets, database, digests, clock, entropy)
    except BaseException:
        await database.close()
        raise
