"""A real Redis with a replica, and a sentinel that makes the replica the primary when the primary is gone."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tests.support.processes import Reaper, ServerProcess, free_port, wait_until
from tests.support.services import RedisServer

SERVICE = "mymaster"
QUORUM = 1
GONE_AFTER_MS = 500


class SentinelServer(ServerProcess):
    """One sentinel, which decides by itself that a primary is gone."""

    def __init__(self, reaper: Reaper, binary: str, primary: RedisServer) -> None:
        self.port = free_port()
        self.url = f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}"
        directory = reaper.make_directory()
        configuration = directory / "sentinel.conf"  # the sentinel writes to it
        configuration.write_text(
            f"port {self.port}\n"
            "bind 127.0.0.1\n"
            f"dir {directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {QUORUM}\n"
            f"sentinel down-after-milliseconds {SERVICE} {GONE_AFTER_MS}\n"
        )
        super().__init__(reaper, [binary, str(configuration), "--sentinel"], self._ready, directory=directory)

    def client(self) -> Any:
        """A synchronous client of the sentinel itself; redis-py types few of its commands."""
        return redis.Redis(port=self.port, socket_timeout=5, socket_connect_timeout=5, decode_responses=True)

    def point_at(self, primary: RedisServer) -> None:
        """Lets it name another primary, as if it had seen a fail-over that it left to somebody else."""
        with self.client() as client:
            client.execute_command("SENTINEL REMOVE", SERVICE)
            client.execute_command("SENTINEL MONITOR", SERVICE, "127.0.0.1", primary.port, QUORUM)

    def knows_a_replica(self) -> bool:
        """Whether there is somebody to fail over to."""
        with self.client() as client:
            replicas = client.execute_command("SENTINEL REPLICAS", SERVICE)
        return any(replica["master-link-status"] == "ok" for replica in replicas)

    def _ready(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


class Replicated:
    """A primary, its replica, and the sentinel that watches them."""

    def __init__(self, reaper: Reaper, binary: str) -> None:
        self.primary = RedisServer(reaper, binary, "--repl-diskless-sync-delay", "0")
        self.replica = RedisServer(reaper, binary, "--replicaof", "127.0.0.1", str(self.primary.port))
        with self.replica.client() as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to follow")
        self.sentinel = SentinelServer(reaper, binary, self.primary)
        self.url = self.sentinel.url
        wait_until(self.sentinel.knows_a_replica, "the sentinel to know the replica")

    def wait_for_replica(self) -> None:
        """Waits until the replica has all that the primary acknowledged."""
        with self.primary.client() as client:
            client.set("last", 1, ex=60)  # WAIT waits for what its own connection wrote
            wait_until(lambda: client.wait(1, 1000) == 1, "the replica to have it all")

    def hand_over(self) -> None:
        """Makes the replica the primary and the primary its replica; their connections stay open."""
        with self.primary.client() as old, self.replica.client() as new:
            new.execute_command("REPLICAOF NO ONE")
            self.sentinel.point_at(self.replica)
            old.execute_command("REPLICAOF", "127.0.0.1", self.replica.port)


@contextmanager
def replicated_redis(reaper: Reaper) -> Iterator[Replicated]:
    """Redis with a replica and a sentinel, for as long as the block lasts. Redis must be installed."""
    binary = shutil.which("redis-server")
    assert binary is not None
    replicated = Replicated(reaper, binary)
    try:
        yield replicated
    finally:
        for server in (replicated.sentinel, replicated.replica, replicated.primary):
            server.kill()
