"""Which Redis a key lies on: one server, the primary that Sentinel names, or a Cluster's node.

Only errors that say that a command did not run are answered by sending it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from redis.asyncio import RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from apishield.errors import ConfigurationError, StoreUnavailable
from apishield.stores.redis.link import CONNECT_TIMEOUT_SECONDS, Call, Node

_MAP_PAUSE_SECONDS = 0.2
SCHEMES = (
    "redis://, rediss:// (TLS), unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
)


class Servers(Protocol):
    """Where calls go."""

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

    def __init__(self, new_connection: Callable[[], AbstractConnection]) -> None:
        self._node = Node(new_connection)

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


class Cluster:
    """The nodes of a Redis Cluster. redis-py reads the map of slots; it is read again when a node is gone or says so."""

    def __init__(self, new_cluster: Callable[[], RedisCluster]) -> None:
        self._new_cluster = new_cluster
        self._cluster: RedisCluster | None = None
        self._nodes: dict[tuple[str, int], Node] = {}
        self._unsent: list[tuple[str, bytes, Call]] = []
        self._mapping: asyncio.Task[None] | None = None

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
                return where.connection_class(**where.connection_kwargs, retry=_no_retry())

            node = self._nodes[host, port] = Node(new_connection, on_unreachable=self._map_again)
        return node

    def _map_again(self) -> None:
        if self._mapping is None:
            self._mapping = asyncio.get_running_loop().create_task(self._map())

    async def _map(self) -> None:
        """Reads the map of slots, but no more often than the pause allows."""
        error: Exception | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                if self._cluster is None:
                    self._cluster = await self._new_cluster().initialize()
                else:
                    await self._cluster.nodes_manager.initialize()
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


def connect(url: str) -> Servers:
    """The servers that ``url`` names, not connected yet. Raises ``ConfigurationError`` where it can't be read.

    ``redis+sentinel://[user:password@]host:port,host:port/service[/database]`` asks these sentinels for the primary;
    ``redis+cluster://host:port,host:port`` reads the map of slots from one of these nodes. ``rediss`` in place of ``redis`` is
    TLS; options such as ``?ssl_ca_certs=/etc/ca.pem`` are redis-py's.
    """
    scheme, _, rest = url.partition("://")
    transport, _, topology = scheme.partition("+")
    try:
        if transport not in ("redis", "rediss", "unix") or (transport == "unix" and topology):
            raise ValueError(f"{scheme!a} is not a scheme that is known; use {SCHEMES}")
        hosts, path = _hosts(urlsplit(f"redis://{rest}").netloc), urlsplit(f"redis://{rest}").path
        match topology:
            case "":
                return SingleServer(_single(url))
            case "cluster":
                return Cluster(_cluster(url.replace(scheme, transport, 1), hosts))
            case "sentinel":
                return SingleServer(_sentinel(transport, rest, hosts, path))
        raise ValueError(f"{scheme!a} is not a scheme that is known; use {SCHEMES}")
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"REDIS_URL can't be used: {error}.") from error


def _options(url: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """How redis-py connects to ``url``, never trying twice and with answers of RESP 2 in bytes."""
    options: dict[str, Any] = dict(parse_url(url))
    options |= {"protocol": 2, "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS, "client_name": "apishield"}
    return options.pop("connection_class", Connection), options


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _single(url: str) -> Callable[[], AbstractConnection]:
    connection_class, options = _options(url)
    return lambda: connection_class(**options, retry=_no_retry())


def _cluster(url: str, hosts: list[tuple[str, int]]) -> Callable[[], RedisCluster]:
    connection_class, options = _options(_with_host(url, hosts[0]))
    for name in ("host", "port", "db"):
        options.pop(name, None)
    options["ssl"] = issubclass(connection_class, SSLConnection)

    def new_cluster() -> RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in hosts]
        return RedisCluster(startup_nodes=nodes, retry=_no_retry(), **options)

    return new_cluster


def _sentinel(transport: str, rest: str, hosts: list[tuple[str, int]], path: str) -> Callable[[], AbstractConnection]:
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise ValueError("the path names no service; write redis+sentinel://host:26379/mymaster")
    connection_class, options = _options(_with_host(f"{transport}://{rest}", hosts[0]).replace(path, f"/{database}", 1))
    for name in ("host", "port"):
        options.pop(name, None)
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name) for name in list(options) if name.startswith("sentinel_")
    }
    options["ssl"] = issubclass(connection_class, SSLConnection)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        hosts,
        sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT_SECONDS, "retry": _no_retry(), **sentinel_options},
        retry=_no_retry(),
        **options,
    )
    primary = sentinel.master_for(service)
    new_connection: Callable[[], AbstractConnection] = primary.connection_pool.make_connection
    return new_connection


def _hosts(netloc: str) -> list[tuple[str, int]]:
    """The hosts and ports of ``[user:password@]host:port,host:port``."""
    split = [urlsplit(f"//{host}") for host in netloc.rpartition("@")[2].split(",")]
    return [(part.hostname or "localhost", part.port or 6379) for part in split]


def _with_host(url: str, host: tuple[str, int]) -> str:
    """``url`` with this one host in place of its list of them."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    name = f"[{host[0]}]" if ":" in host[0] else host[0]
    return parts._replace(netloc=f"{user}{at}{name}:{host[1]}").geturl()
