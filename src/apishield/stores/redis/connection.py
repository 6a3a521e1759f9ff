"""What a ``REDIS_URL`` means: one server, the primary that Sentinel names, or a Cluster.

- ``redis://[user:password@]host:port/database``, ``unix://path``: one server.
- ``redis+sentinel://[user:password@]host:port,host:port/service[/database]``: these sentinels know the primary of the service.
- ``redis+cluster://[user:password@]host:port,host:port``: one of these nodes knows the map of slots.

``rediss`` in place of ``redis`` is TLS. Options such as ``?ssl_ca_certs=/etc/ca.pem`` are redis-py's; those that begin with
``sentinel_`` go to the sentinels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from apishield.errors import ConfigurationError

CONNECT_TIMEOUT_SECONDS = 1.0
SCHEMES = (
    "redis://, rediss:// (TLS), unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
)

NewConnection = Callable[[], AbstractConnection]


class Address(msgspec.Struct, frozen=True):
    """A ``REDIS_URL``, taken apart. ``options`` are what redis-py's connections take, host and port aside."""

    topology: str
    hosts: list[tuple[str, int]]
    service: str
    connection_class: type[AbstractConnection]
    options: dict[str, Any]
    sentinel_options: dict[str, Any]

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return issubclass(self.connection_class, SSLConnection)


def parse_address(url: str) -> Address:
    """Takes ``url`` apart. Raises ``ConfigurationError`` that says what is wrong with it."""
    scheme = url.partition("://")[0]
    transport, _, topology = scheme.partition("+")
    try:
        if transport not in ("redis", "rediss", "unix") or topology not in ("", "sentinel", "cluster"):
            raise ValueError(f"{scheme!a} is not a scheme that is known; use {SCHEMES}")
        if not topology:
            options: dict[str, Any] = dict(parse_url(url))
            return Address("", [], "", options.pop("connection_class", Connection), options, {})
        # The hosts are taken out first: newer Pythons read no network location in which a bracket does not come first.
        rest = url.partition("://")[2]
        netloc = re.split("[/?#]", rest, maxsplit=1)[0]
        user, at, listed = netloc.rpartition("@")
        hosts = _hosts(listed)
        parts = urlsplit(f"{scheme}://{user}{at}host{rest[len(netloc) :]}")
        service, _, database = parts.path.strip("/").partition("/") if topology == "sentinel" else ("", "", "")
        if topology == "sentinel" and not service:
            raise ValueError("it names no service; write redis+sentinel://host:26379/mymaster")
        options = dict(parse_url(parts._replace(scheme=transport, path=f"/{database}").geturl()))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"REDIS_URL can't be used: {error}.") from error
    connection_class = options.pop("connection_class", Connection)
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name) for name in list(options) if name.startswith("sentinel_")
    }
    for name in ("host", "port"):
        options.pop(name, None)
    return Address(topology, hosts, service, connection_class, options, sentinel_options)


def connect(url: str) -> Redis:
    """A client for what is not on the hot path, such as notices; of a Cluster, to one of its nodes."""
    address = parse_address(url)
    if address.topology == "sentinel":
        client: Redis = _sentinel(address).master_for(address.service)
        return client
    options = dict(address.options)
    if address.topology == "cluster":
        options["host"], options["port"] = address.hosts[0]
    pool = ConnectionPool(connection_class=address.connection_class, **options)
    return Redis.from_pool(pool)


def connections(address: Address) -> NewConnection:
    """Makes connections to one server, or to whoever the sentinels say is the primary. Each tries to connect once."""
    if address.topology == "sentinel":
        primary = _sentinel(address, **_lean(address.options)).master_for(address.service)
        new_connection: NewConnection = primary.connection_pool.make_connection
        return new_connection
    options = _lean(address.options)
    return lambda: address.connection_class(**options, retry=no_retry())


def new_cluster(address: Address) -> RedisCluster:
    """A reader of the Cluster's map of slots, not connected yet."""
    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    return RedisCluster(startup_nodes=nodes, retry=no_retry(), ssl=address.uses_tls, **_lean(address.options))


def no_retry() -> Retry:
    """Never a second try: a call that timed out may have run."""
    return Retry(NoBackoff(), 0)


def _lean(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` for connections that are taken over: answers of RESP 2, and nothing that speaks by itself."""
    return {"socket_connect_timeout": CONNECT_TIMEOUT_SECONDS, "client_name": "apishield", **options, "protocol": 2}


def _sentinel(address: Address, **options: Any) -> Sentinel:
    sentinel_options = {"socket_timeout": CONNECT_TIMEOUT_SECONDS, **address.sentinel_options}
    return Sentinel(  # type: ignore[no-untyped-call]
        address.hosts,
        sentinel_kwargs=sentinel_options | {"retry": no_retry()},
        ssl=address.uses_tls,
        retry=no_retry(),
        **(options or address.options),
    )


def _hosts(listed: str) -> list[tuple[str, int]]:
    """The hosts and ports of ``host:port,host:port``."""
    split = [urlsplit(f"//{host}") for host in listed.split(",")]
    return [(part.hostname or "localhost", part.port or 6379) for part in split]
