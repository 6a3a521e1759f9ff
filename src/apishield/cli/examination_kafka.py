"""What ``apishield doctor`` says of Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

import msgspec

from apishield.clock import system_clock
from apishield.errors import MissingExtra
from apishield.settings import Settings
from apishield.stores.sql.database import Database

_BROKERS_FIX = (
    "Start the brokers, or mend KAFKA_BOOTSTRAP_SERVERS and the APISHIELD_KAFKA_… settings by which nodes sign in. "
    "Until then events wait in the spool."
)


class KafkaFinding(NamedTuple):
    """How one part is; ``fix`` is what to do where it is not well."""

    part: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str | None = None


async def look_at_kafka(settings: Settings) -> AsyncIterator[KafkaFinding]:
    """The brokers and topics of the settings; nothing where Kafka is not used. Makes no topic."""
    if not settings.kafka_bootstrap_servers:
        return
    try:
        from apishield.stores.kafka.inspection import KafkaUnreachable, inspect  # noqa: PLC0415  an extra
        from apishield.stores.kafka.topics import Agreement  # noqa: PLC0415
    except MissingExtra as error:
        yield KafkaFinding("kafka", "fail", "its client is not installed", str(error))
        return
    remembered = await _remembered(settings)
    agreement = None if remembered is None else msgspec.json.decode(remembered, type=Agreement)
    try:
        seen = await asyncio.to_thread(inspect, settings, agreement)
    except KafkaUnreachable as error:
        servers = ",".join(settings.kafka_bootstrap_servers)
        yield KafkaFinding("kafka", "fail", f"KAFKA_BOOTSTRAP_SERVERS is '{servers}': {error}", _BROKERS_FIX)
        return
    yield KafkaFinding("kafka", "ok", f"{seen.brokers} broker{'s' * (seen.brokers != 1)}")
    name, wanted = settings.kafka_topic, settings.kafka_partitions
    if seen.wrong is not None:
        said, _, fix = seen.wrong.partition(". ")
        yield KafkaFinding("kafka topic", "fail", said, fix)
    elif agreement is not None and agreement.partitions != wanted:
        detail = f"{agreement.partitions} partitions of '{name}' are in use, APISHIELD_KAFKA_PARTITIONS is {wanted}"
        fix = f"Set it to {agreement.partitions}, which was fixed at the first start; to have more, take another topic."
        yield KafkaFinding("kafka topic", "warn", detail, fix)
    elif seen.partitions is None:
        yield KafkaFinding("kafka topic", "ok", f"'{name}', {wanted} partitions (the first start makes it)")
    else:
        in_use = wanted if agreement is None else agreement.partitions
        yield KafkaFinding("kafka topic", "ok", f"'{name}', {in_use} of {seen.partitions} partitions in use")
    if agreement is not None and not seen.has_dead_letters:
        fix = "The next start of a worker makes it, where it may."
        yield KafkaFinding("kafka dead letters", "warn", f"the topic '{name}.dead' is missing", fix)


async def _remembered(settings: Settings) -> str | None:
    """What the database knows of the topic; a database that can't be asked is told of as such."""
    if settings.new_sqlite_file is not None:
        return None
    database = Database(settings.effective_database_url, system_clock)
    try:
        async with asyncio.timeout(5), database.read() as tx:
            return await tx.meta.get(f"kafka:{settings.kafka_topic}")
    except Exception:  # noqa: BLE001  away, or not migrated yet: another line of the doctor's says so
        return None
    finally:
        await database.close()
