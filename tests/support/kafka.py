"""A real Apache Kafka for the tests: one node (KRaft) on free ports, that a test may kill and start again.

``scripts/kafka.sh`` fetches Kafka and a Java runtime once, into a cache outside the checkout. Where they can't be had, a
test that needs them fails in CI, and is skipped on a laptop, with the reason in the summary.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from apishield.settings import Settings
from tests.support.processes import Reaper, ServerProcess, free_port
from tests.support.services import _start

_SCRIPT = Path(__file__).parents[2] / "scripts" / "kafka.sh"
_CLUSTER_ID = "OXmwfjHkQciYqdn7sY9pxw"
_JAVA_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
# A node that was killed is waited for by its controller, itself, until its session ends.
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/logs
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


class KafkaServer(ServerProcess):
    """A broker that is its own controller."""

    def __init__(self, reaper: Reaper, home: Path) -> None:
        self.port, controller = free_port(), free_port()
        self.bootstrap_servers = f"127.0.0.1:{self.port}"
        directory = reaper.make_directory()
        properties = directory / "server.properties"
        properties.write_text(_PROPERTIES.format(port=self.port, controller=controller, directory=directory))
        java = [str(home / "java" / "bin" / "java"), *_JAVA_FLAGS, "-cp", f"{home}/libs/*"]
        storage = ["-Xmx64m", "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties)]
        subprocess.run([*java, *storage], check=True, capture_output=True, cwd=directory)
        command = [*java, "-Xms64m", "-Xmx256m", "kafka.Kafka", str(properties)]
        super().__init__(reaper, command, self._ready, directory=directory)

    def admin(self) -> AdminClient:
        """A client for what a test does beside the code under test."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

    def _ready(self) -> bool:
        try:
            return bool(self.admin().list_topics(timeout=1).brokers)
        except KafkaException:
            return False


@pytest.fixture(scope="session")
def kafka_server(reaper: Reaper) -> Iterator[KafkaServer]:
    """A Kafka that a test may kill, freeze and restart; ``kafka`` heals it before the next test."""
    home = _home()
    server = _start(lambda: KafkaServer(reaper, home))
    yield server
    server.kill()


@pytest.fixture
def kafka(kafka_server: KafkaServer) -> KafkaServer:
    """A Kafka that answers."""
    kafka_server.heal()
    return kafka_server


@pytest.fixture
def kafka_settings(kafka: KafkaServer, tmp_path: Path) -> Settings:
    """Settings with topics that no other test uses."""
    return Settings(
        kafka_bootstrap_servers=(kafka.bootstrap_servers,),
        kafka_topic=f"test.{uuid.uuid4().hex[:12]}",
        kafka_partitions=4,
        data_dir=tmp_path / "data",
    )


def _home() -> Path:
    made = subprocess.run([str(_SCRIPT)], check=False, capture_output=True, text=True)
    if made.returncode == 0:
        return Path(made.stdout.strip())
    reason = f"Apache Kafka could not be fetched (scripts/kafka.sh): {made.stderr.strip()[-500:]}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
