"""Has psycopg send the arrays of ``arrays``. Apart from them, because SQLite needs no psycopg, which takes long to load."""

from __future__ import annotations

from typing import Any, cast

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from apishield.stores.sql.ledger.arrays import Blobs, Integers, Texts


class _Given(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        return cast(bytes, obj)


class _Integers(_Given):
    oid = 1016


class _Texts(_Given):
    oid = 1009


class _Blobs(_Given):
    oid = 1001


def register(driver: AdaptContext) -> None:
    """Tells a connection of the driver how to send them."""
    adapters = driver.adapters
    if adapters is not None:
        for type_, dumper in ((Integers, _Integers), (Texts, _Texts), (Blobs, _Blobs)):
            adapters.register_dumper(type_, dumper)
