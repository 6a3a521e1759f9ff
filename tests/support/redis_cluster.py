"""A real Redis Cluster of three nodes, on free ports of this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.crc import key_slot

from tests.support.processes import Reaper, free_port, wait_until
from tests.support.services import RedisServer

NODES = 3


class ClusterOf:
    """Servers that are a Cluster, and clients to move its slots with."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self.servers = servers
        self.clients: list[Any] = [server.client() for server in servers]  # redis-py types few of a cluster's commands
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)

    def owner_of(self, key: str) -> int:
        """The index of the node that holds ``key``, as the first node knows it."""
        slot, ports = key_slot(key.encode()), [server.port for server in self.servers]
        for address, node in self.clients[0].cluster("nodes").items():
            if any(int(span[0]) <= slot <= int(span[-1]) for span in node["slots"] if span[0].isdigit()):
                return ports.index(int(address.rpartition(":")[2]))
        raise LookupError(slot)


@contextmanager
def running_cluster(reaper: Reaper) -> Iterator[ClusterOf]:
    """A Cluster whose nodes share the slots evenly, for as long as the block lasts. Redis must be installed."""
    binary, client = shutil.which("redis-server"), shutil.which("redis-cli")
    assert binary is not None
    assert client is not None
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
    servers = [RedisServer(reaper, binary, *options, "--cluster-port", str(free_port())) for _ in range(NODES)]
    addresses = [f"127.0.0.1:{server.port}" for server in servers]
    subprocess.run(
        [client, "--cluster", "create", *addresses, "--cluster-yes"], check=True, capture_output=True, timeout=60
    )
    cluster = ClusterOf(servers)
    wait_until(
        lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in cluster.clients),
        "the cluster to be whole",
    )
    try:
        yield cluster
    finally:
        for server in servers:
            server.kill()
