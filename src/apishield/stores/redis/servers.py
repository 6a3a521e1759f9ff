"""Which Redis a key lies on: one server, the primary that Sentinel names, or a Cluster's node.

Only errors that say that a command did not run are answered by sending it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisClusterException, RedisError

from apishield.errors import StoreUnavailable
from apishield.stores.redis.connection import (
    CONNECT_TIMEOUT_SECONDS,
    NewConnection,
    connections,
    new_cluster,
    no_retry,
    parse_address,
)
from apishield.stores.redis.link import Call, Node

_MAP_PAUSE_SECONDS = 0.2


class Servers(Protocol):
    """Where calls go. ``may_have_forgotten`` is whether some server may have lost charges since this process runs."""

    may_have_forgotten: bool

    def place_of(self, key: str) -> str:
        """Which server holds ``key``: its address where there are several and it is known, else nothing."""
        ...

    def node_of(self, key: str) -> Node | None:
        """The server that holds ``key``, as far as it is known."""
        ...

    def nodes(self) -> list[Node]:
        """All servers that were needed so far."""
        ...

    def send(self, key: str, command: bytes, call: Call) -> None:
        """Sends ``command`` to the server that holds ``key``."""
        ...

    def resend(self, key: str, command: bytes, call: Call, error: str) -> bool:
        """Sends ``command`` again, if ``error`` says that it did not run and that it may elsewhere or now."""
        ...

    def give_up_if_silent(self, key: str, seconds: float) -> None:
        """Drops the connection to the server of ``key`` if it has owed an answer for ``seconds``."""
        ...

    async def close(self) -> None:
        """Drops all connections."""
        ...


class SingleServer:
    """One server, or whatever ``new_connection`` leads to (Sentinel: the primary of the moment)."""

    def __init__(self, new_connection: NewConnection) -> None:
        self.may_have_forgotten = False
        self._node = Node(new_connection, on_forgot=self._forgot)

    def place_of(self, key: str) -> str:
        """Nothing: there is one."""
        return ""

    def node_of(self, key: str) -> Node:
        """The server."""
        return self._node

    def nodes(self) -> list[Node]:
        """The server."""
        return [self._node]

    def send(self, key: str, command: bytes, call: Call) -> None:
        """Sends ``command``."""
        self._node.send(command, call)

    def resend(self, key: str, command: bytes, call: Call, error: str) -> bool:
        """Loads the script where a restart has lost it; leaves a server that is no primary any more."""
        if error.startswith("NOSCRIPT"):
            self._node.load_script()
            self._node.send(command, call)
            return True
        if error.startswith(("READONLY", "MASTERDOWN")):
            self._node.disconnect()
        return False

    def give_up_if_silent(self, key: str, seconds: float) -> None:
        """Drops the connection if the server has owed an answer for ``seconds``."""
        self._node.give_up_if_silent(seconds)

    async def close(self) -> None:
        """Drops the connection."""
        await self._node.close()

    def _forgot(self) -> None:
        self.may_have_forgotten = True


class Cluster:
    """The nodes of a Redis Cluster. redis-py reads the map of slots; it is read again when a node is gone or says so."""

    def __init__(self, new_cluster: Callable[[], RedisCluster]) -> None:
        self.may_have_forgotten = False
        self._new_cluster = new_cluster
        self._cluster: RedisCluster | None = None
        self._nodes: dict[tuple[str, int], Node] = {}
        self._unsent: list[tuple[str, bytes, Call]] = []
        self._mapping: asyncio.Task[None] | None = None

    def place_of(self, key: str) -> str:
        """The address of the node that holds the slot of ``key``; nothing while the map is not known."""
        primary = None if self._cluster is None else _primary_of(self._cluster, key)
        return "" if primary is None else f"{primary.host}:{primary.port}"

    def node_of(self, key: str) -> Node | None:
        """The node that holds the slot of ``key``, as far as the map is known."""
        try:
            return None if self._cluster is None else self._node_of(self._cluster, key)
        except RedisClusterException:
            return None

    def nodes(self) -> list[Node]:
        """All nodes that were needed so far."""
        return list(self._nodes.values())

    def send(self, key: str, command: bytes, call: Call) -> None:
        """Sends ``command`` to the primary of the slot of ``key``, once the map is known."""
        if self._cluster is None:
            self._unsent.append((key, command, call))
            self._map_again()
            return
        try:
            node = self._node_of(self._cluster, key)
        except RedisClusterException as error:
            self._map_again()
            call.lost(StoreUnavailable(f"Redis Cluster: {error}"))
        else:
            node.send(command, call)

    def resend(self, key: str, command: bytes, call: Call, error: str) -> bool:
        """Follows ``MOVED`` and ``ASK``, and loads the script where it is missing."""
        kind, _, rest = error.partition(" ")
        if kind in ("READONLY", "MASTERDOWN", "CLUSTERDOWN"):
            self._map_again()
        if self._cluster is None or kind not in ("MOVED", "ASK", "NOSCRIPT", "TRYAGAIN"):
            return False
        host, _, port = rest.rpartition(" ")[2].rpartition(":") if kind in ("MOVED", "ASK") else ("", "", "")
        node = self._node_at(self._cluster, host, int(port)) if host else self._node_of(self._cluster, key)
        if kind == "MOVED":
            self._map_again()
        node.load_script()
        if kind == "ASK":
            node.ask_importing()
        node.send(command, call)
        return True

    def give_up_if_silent(self, key: str, seconds: float) -> None:
        """Drops the connection to the node of ``key`` if it has owed an answer for ``seconds``."""
        if self._cluster is not None and self._node_of(self._cluster, key).give_up_if_silent(seconds):
            self._map_again()

    async def close(self) -> None:
        """Drops all connections."""
        if self._mapping is not None:
            self._mapping.cancel()
            await asyncio.gather(self._mapping, return_exceptions=True)
        for node in self._nodes.values():
            await node.close()
        if self._cluster is not None:
            await self._cluster.aclose()

    def _node_of(self, cluster: RedisCluster, key: str) -> Node:
        primary = cluster.get_node_from_key(key)
        assert primary is not None
        return self._node_at(cluster, primary.host, int(primary.port))

    def _node_at(self, cluster: RedisCluster, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            options: dict[str, Any] = cluster.get_connection_kwargs()
            where = ClusterNode(host, port, **options)

            def new_connection() -> AbstractConnection:
                return where.connection_class(**where.connection_kwargs, retry=no_retry())

            node = self._nodes[host, port] = Node(new_connection, self._map_again, self._forgot)
        return node

    def _forgot(self) -> None:
        self.may_have_forgotten = True

    def _map_again(self) -> None:
        if self._mapping is None:
            self._mapping = asyncio.get_running_loop().create_task(self._map())

    async def _map_anew(self, cluster: RedisCluster) -> None:
        """Reads the map again. Who took the slots of a node that is gone was its replica, and may not have heard all."""
        gone = {where for where, node in self._nodes.items() if node.is_gone}
        before = _owners(cluster) if gone else {}
        await cluster.nodes_manager.initialize()
        after = _owners(cluster) if gone else {}
        heirs = {after[slot] for slot, owner in before.items() if owner in gone and after.get(slot, owner) != owner}
        for host, port in heirs:
            self._node_at(cluster, host, port).runs.lose()

    async def _map(self) -> None:
        """Reads the map of slots, but no more often than the pause allows."""
        error: Exception | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                if self._cluster is None:
                    self._cluster = await self._new_cluster().initialize()
                else:
                    await self._map_anew(self._cluster)
        except (RedisError, OSError, TimeoutError) as fault:
            error = fault
        unsent, self._unsent = self._unsent, []
        for key, command, call in unsent:
            if error is None:
                self.send(key, command, call)
            else:
                call.lost(StoreUnavailable(f"Redis Cluster can't be reached: {error or type(error).__name__}."))
        await asyncio.sleep(_MAP_PAUSE_SECONDS)
        self._mapping = None
        if self._unsent:
            self._map_again()


def _primary_of(cluster: RedisCluster, key: str) -> ClusterNode | None:
    try:
        return cluster.get_node_from_key(key)
    except RedisClusterException:
        return None


def _owners(cluster: RedisCluster) -> dict[int, tuple[str, int]]:
    """Who holds each slot."""
    slots: dict[int, list[ClusterNode]] = cluster.nodes_manager.slots_cache
    return {slot: (nodes[0].host, int(nodes[0].port)) for slot, nodes in slots.items()}


def servers_of(url: str) -> Servers:
    """The servers that ``url`` names, not connected yet. Raises ``ConfigurationError`` where it can't be read."""
    address = parse_address(url)
    if address.topology == "cluster":
        return Cluster(lambda: new_cluster(address))
    return SingleServer(connections(address))
