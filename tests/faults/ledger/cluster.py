"""The pipeline of a cluster: two nodes and two workers on PostgreSQL, Redis and Kafka."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, TopicPartition

from apishield.bootstrap import load_secrets, open_database
from apishield.clock import system_clock
from apishield.settings import Settings
from apishield.stores.kafka.published import read_published
from apishield.stores.kafka.topics import stream_of
from apishield.stores.spool.files import spools_in
from apishield.stores.sql.database import Database
from tests.faults.ledger.schedule import Fault
from tests.faults.ledger.targets import FAST, Node, is_read, results_waiting, taken, told
from tests.support.kafka import KafkaServer
from tests.support.processes import Reaper, ServerProcess, wait_until
from tests.support.services import PostgresServer

_SECRET = "1:" + "c2VjcmV0" * 8
_PARTITIONS = 4
_TAKEN_OVER_SECONDS = 60.0


class Worker(ServerProcess):
    """``apishield worker``."""

    def __init__(self, reaper: Reaper, directory: Path, environment: Mapping[str, str]) -> None:
        directory.mkdir()
        self._started_after = 0
        super().__init__(
            reaper,
            [sys.executable, "-m", "apishield.cli", "worker"],
            lambda: "worker.started" in self.log[self._started_after :],
            directory=directory,
            environment={
                "PATH": os.environ.get("PATH", os.defpath),
                "APISHIELD_DATA_DIR": str(directory / "data"),
                **environment,
                "APISHIELD_LOG_LEVEL": "info",
            },
        )

    def start(self) -> None:
        """Starts it."""
        self._started_after = len(self.log)
        super().start()

    @property
    def owner(self) -> str:
        """What it is called in the ledger's claims."""
        return f"{socket.gethostname()}:{self.pid}"


class KafkaTarget:
    """What comes through Kafka. Of a broker that is killed nothing is undone but the waiting: it starts again by itself."""

    faults: Mapping[Fault, int] = {
        Fault.NODE: 5,
        Fault.NODE_AND_LEDGER: 5,
        Fault.LEDGER: 5,
        Fault.FROZEN_LEDGER: 2,
        Fault.RESTART: 1,
        Fault.WORKER: 8,
        Fault.FROZEN_WORKER: 1,
        Fault.BROKER: 1,
        Fault.DATABASE: 1,
    }

    def __init__(
        self,
        reaper: Reaper,
        directory: Path,
        kafka: KafkaServer,
        postgres: PostgresServer,
        *,
        database_url: str,
        redis_url: str,
        topic: str,
    ) -> None:
        self._kafka, self._postgres, self._database_url, self._topic = kafka, postgres, database_url, topic
        environment = {
            **FAST,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "APISHIELD_KAFKA_TOPIC": topic,
            "APISHIELD_KAFKA_PARTITIONS": str(_PARTITIONS),
            "APISHIELD_REDIS_TIMEOUT_MS": "1000",
            "APISHIELD_SECRET": _SECRET,
        }
        self._settings = Settings(database_url=database_url, secret=_SECRET, data_dir=directory / "unused")
        first = Node(reaper, directory / "node-0", environment)  # it migrates the database
        with ThreadPoolExecutor() as threads:
            second = threads.submit(Node, reaper, directory / "node-1", environment)
            started = [
                threads.submit(Worker, reaper, directory / f"worker-{number}", environment) for number in range(2)
            ]
        self._nodes = [first, second.result()]
        self._workers = [worker.result() for worker in started]

    def urls(self) -> list[str]:
        """Both nodes, also while one is down."""
        return [node.service.url for node in self._nodes]

    def inflict(self, fault: Fault, victim: int) -> None:
        """Does it, and starts again what was killed."""
        worker = self._workers[victim]
        match fault:
            case Fault.WORKER:
                worker.kill()
                worker.start()
            case Fault.FROZEN_WORKER:
                worker.stop()
                wait_until(
                    partial(self._owns_nothing, worker.owner),
                    "the other worker to take over",
                    timeout_seconds=_TAKEN_OVER_SECONDS,
                )
                worker.cont()
            case Fault.BROKER:
                self._kafka.kill()
                self._kafka.start()
            case Fault.DATABASE:
                self._postgres.kill()
                self._postgres.start()
            case _:
                self._nodes[victim].inflict(fault)

    def database(self) -> Database:
        """Its database, to be closed by the caller."""
        return open_database(self._settings, load_secrets(self._settings), system_clock)

    async def is_drained(self, database: Database, tenant_id: str) -> bool:
        """All was published, all that was published was taken, and no result waits for its decision."""
        for node in self._nodes:
            for spool in spools_in(node.spools):
                if not is_read(node.spools, spool, read_published(node.spools, spool) or 0):
                    return False
        ends = self._ends()
        positions = await taken(database)
        if any(positions.get(stream, 0) < end for stream, end in ends.items()):
            return False
        return not await results_waiting(database, tenant_id)

    def logs(self) -> str:
        """What the processes said."""
        return "\n".join(told(process.log) for process in [*(node.service for node in self._nodes), *self._workers])

    def close(self) -> None:
        """Ends all of it but the servers."""
        for worker in self._workers:
            worker.kill()
        for node in self._nodes:
            node.close()

    def _ends(self) -> dict[str, int]:
        """How much each partition holds."""
        consumer = Consumer({"bootstrap.servers": self._kafka.bootstrap_servers, "group.id": "test", "log_level": 0})
        try:
            return {
                stream_of(self._topic, number): consumer.get_watermark_offsets(
                    TopicPartition(self._topic, number), timeout=30
                )[1]
                for number in range(_PARTITIONS)
            }
        finally:
            consumer.close()

    def _owns_nothing(self, owner: str) -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self._database_url) as connection:
            found = connection.execute("SELECT count(*) FROM ledger_positions WHERE owner = %s", (owner,)).fetchone()
            return found == (0,)
        return False
