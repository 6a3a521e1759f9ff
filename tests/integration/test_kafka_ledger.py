"""From spools through a real Kafka into the ledger: each event once, whoever is killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from apishield.bootstrap import system_clock
from apishield.core.events import DecisionEvent, Event, Frame, Intake, ResultEvent
from apishield.errors import ConfigurationError
from apishield.services.backlog import Pipeline, backlog
from apishield.services.ledger import Applied, Claim, LedgerService
from apishield.settings import Settings
from apishield.stores.kafka.messages import LARGEST_MESSAGE_BYTES, encode_messages
from apishield.stores.kafka.topics import agree, dead_topic, stream_of
from apishield.stores.sql.database import Database
from apishield.stores.sql.failures import unavailable
from apishield.workers.ledger import LedgerWorker
from tests.support.clock import ManualClock
from tests.support.kafka import KafkaServer, kafka, kafka_server, kafka_settings
from tests.support.pipeline import (
    Node,
    WorkerProcess,
    consuming,
    owners,
    requests_in,
    sums,
    traffic,
    until,
    until_counted,
)
from tests.support.processes import Reaper
from tests.support.services import PostgresServer

__all__ = ["kafka", "kafka_server", "kafka_settings"]

pytestmark = pytest.mark.timeout(240)  # a broker that was killed takes its time, and longer on shared cores

FIRST = 0x0A1B2C3D


@pytest_asyncio.fixture
async def database(postgres_url: str, clock: ManualClock) -> AsyncIterator[Database]:
    """An empty PostgreSQL with the newest schema."""
    database = Database(postgres_url, clock)
    await database.migrate()
    yield database
    await database.close()


@pytest_asyncio.fixture
async def node(tmp_path: Path, kafka_settings: Settings, database: Database, clock: ManualClock) -> AsyncIterator[Node]:
    node = Node(tmp_path, kafka_settings, database, clock, FIRST)
    yield node
    node.close()


def counted(events: Iterable[Event]) -> tuple[int, int]:
    """How many decisions there are, and how many of them have a result."""
    events = list(events)
    decisions = sum(isinstance(event, DecisionEvent) for event in events)
    return decisions, len({event.sequence for event in events if isinstance(event, ResultEvent)})


async def test_what_comes_through_kafka_is_what_comes_without(
    tmp_path: Path, node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    """Two workers share the partitions; some results come before their decision; all rows are those of a direct drain."""
    events = traffic(FIRST, 1500, clock())
    direct = Database(f"sqlite:///{tmp_path}/direct.db", clock)
    await direct.migrate()
    other = Node(tmp_path / "direct", kafka_settings, direct, clock, FIRST)
    other.write(events)
    drain = LedgerWorker(other.root, LedgerService(direct, clock), clock, owner="direct", max_bytes=1 << 30)
    await drain.drain.catch_up()
    clock.advance(60)  # what waited for its decision is tried again
    await drain.drain.catch_up()
    assert await requests_in(direct) == counted(events)

    node.write(events)
    async with (
        consuming(kafka_settings, database, clock, "a") as (a, _),
        consuming(kafka_settings, database, clock, "b") as (b, _),
    ):
        await until(lambda: a.stats.partitions == b.stats.partitions == 2, "both to have half of the partitions")
        await node.publish()
        await until(lambda: a.stats.messages and b.stats.messages, "both to take something")
        await until_counted(database, counted(events), clock)
    assert await sums(database) == await sums(direct)
    drain.drain.close()
    other.close()
    await direct.close()


async def test_what_a_publisher_sends_again_is_counted_once(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = [event for event in traffic(FIRST, 600, clock()) if isinstance(event, DecisionEvent)]
    node.write(events[:300])
    await node.publish()
    node.crash(forget_published=True)
    node.write(events[300:], turn=7)
    await node.publish()
    assert node.publisher.stats.events == 600
    async with consuming(kafka_settings, database, clock) as (_, ledger):
        await until_counted(database, (600, 0))
        await until(lambda: ledger.stats.duplicates > 0, "what came again")
    before = await sums(database)
    node.crash(forget_published=True)
    await node.publish()
    async with consuming(kafka_settings, database, clock) as (consumer, ledger):
        await until(lambda: consumer.stats.messages > 0 and not any(consumer.stats.lag.values()), "it to be read")
        assert ledger.stats.events == 0
    assert await sums(database) == before


async def test_kafka_may_be_turned_on_and_off_and_on_again(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = [event for event in traffic(FIRST, 500, clock()) if isinstance(event, DecisionEvent)]

    async def take_without_kafka() -> None:
        node.close()
        worker = LedgerWorker(node.root, LedgerService(database, clock), clock, owner="direct", max_bytes=1 << 30)
        await worker.drain.catch_up()
        worker.drain.close()

    node.write(events[:100])
    await take_without_kafka()
    node.start()
    node.write(events[100:200])
    await node.publish()
    node.write(events[200:300])
    await take_without_kafka()
    node.write(events[300:400])
    await take_without_kafka()
    node.start()
    node.write(events[400:])
    await node.publish()
    async with consuming(kafka_settings, database, clock) as (_, ledger):
        await until_counted(database, (500, 0))
        assert ledger.stats.events == 200


async def test_a_message_that_can_not_be_read_goes_to_the_dead_letters_with_the_reason_and_the_next_is_taken(
    node: Node, kafka: KafkaServer, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = [event for event in traffic(FIRST, 200, clock()) if isinstance(event, DecisionEvent)]
    node.write(events[:100])
    await node.publish()
    poison = [b"\xc1 nonsense", b"\x93\x02\x07\x90", b"", b"\x91" * 2000, bytes(LARGEST_MESSAGE_BYTES + 1)]
    publish(kafka, kafka_settings, *poison)
    node.write(events[100:])
    await node.publish()
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        await until_counted(database, (200, 0))
        await until(lambda: consumer.stats.dead_letters >= len(poison), "all dead letters")
    letters = dead_letters(kafka, kafka_settings)
    assert [value for value, _ in letters][:4] == poison[:4]
    assert [headers["reason"].partition(":")[0] for _, headers in letters] == [
        "undecodable", "version", "empty", "undecodable", "oversize",
    ]  # fmt: skip
    for _, headers in letters:
        assert (headers["topic"], headers["partition"]) == (kafka_settings.kafka_topic, "1")
        assert int(headers["offset"]) > 0


async def test_the_one_message_that_the_ledger_fails_at_goes_to_the_dead_letters_and_no_other(
    node: Node,
    kafka: KafkaServer,
    kafka_settings: Settings,
    database: Database,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = LedgerService.apply

    async def take_all_but_one(ledger: LedgerService, claim: Claim, intake: Intake) -> Applied:
        if any(event == untakable for part in intake.parts for frame in part.frames for event in frame.events()):
            raise ValueError("a fault of the ledger's")
        return await take(ledger, claim, intake)

    monkeypatch.setattr(LedgerService, "apply", take_all_but_one)
    events = [event for event in traffic(FIRST, 300, clock()) if isinstance(event, DecisionEvent)]
    untakable = events[150]
    for some in (events[:150], [untakable], events[151:]):
        node.write(some)
        await node.publish()
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        await until_counted(database, (299, 0))
        await until(lambda: consumer.stats.dead_letters >= 1, "the dead letter")
    ((_, headers),) = dead_letters(kafka, kafka_settings)
    assert headers["reason"].startswith("untakable")


async def test_a_message_that_the_database_refuses_is_found_by_halving_and_the_others_are_taken(
    node: Node, kafka: KafkaServer, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    """What can be read, and no table takes: a name too long for an index, an address with NUL, a time out of range."""
    events = [event for event in traffic(FIRST, 300, clock()) if isinstance(event, DecisionEvent)]
    good = events[0]
    refused: dict[str, Event] = {
        "ProgramLimitExceeded": msgspec.structs.replace(good, tenant_id="".join(map(chr, range(0x4E00, 0x5E00)))),
        "CharacterNotInRepertoire": msgspec.structs.replace(good, address="\0"),
        "NumericValueOutOfRange": ResultEvent(FIRST, 0, 2**62, good.tenant_id, clock(), 200, 1000),
    }
    await agree(database, kafka_settings)
    for number, event in enumerate([*events[:20], *refused.values(), *events[20:150]]):
        publish(kafka, kafka_settings, message_of(event, spool=1000 + number))
    node.write(events[150:])
    await node.publish()
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        await until_counted(database, (300, 0))
        await until(lambda: consumer.stats.dead_letters >= 3, "the dead letters")
    reasons = [headers["reason"] for _, headers in dead_letters(kafka, kafka_settings)]
    assert [reason.split(": ")[:3] for reason in reasons] == [
        ["untakable", "the ledger failed at it", kind] for kind in refused
    ]


async def test_a_message_is_a_dead_letter_once_however_often_its_partition_is_tried_again(
    node: Node,
    kafka: KafkaServer,
    kafka_settings: Settings,
    database: Database,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is the database's trouble waits, and is no dead letter; garbage before it is one, but no two; the rest is taken."""
    take, is_away = LedgerService.apply, True

    async def take_what_is_not_locked(ledger: LedgerService, claim: Claim, intake: Intake) -> Applied:
        if is_away and any(
            event == locked for part in intake.parts for frame in part.frames for event in frame.events()
        ):
            raise unavailable()
        return await take(ledger, claim, intake)

    monkeypatch.setattr(LedgerService, "apply", take_what_is_not_locked)
    events = [event for event in traffic(FIRST, 300, clock()) if isinstance(event, DecisionEvent)]
    locked = events[20]
    await agree(database, kafka_settings)
    for number, event in enumerate(events[:20]):
        publish(kafka, kafka_settings, message_of(event, spool=1000 + number))
    publish(kafka, kafka_settings, b"\xc1 nonsense", message_of(locked, spool=2000), b"\xc1 more of it")
    node.write(events[21:])
    await node.publish()
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        await until(lambda: consumer.stats.failures >= 5, "the partition to be tried again and again")
        assert consumer.stats.dead_letters == 1
        assert (await requests_in(database))[0] >= 20 + 2 * len(events[21:]) // 4, "what is before it, and most others"
        is_away = False
        await until_counted(database, (300, 0))
        await until(lambda: not any(consumer.stats.lag.values()), "all to be passed")
        assert consumer.stats.dead_letters == 2
    assert [value for value, _ in dead_letters(kafka, kafka_settings)] == [b"\xc1 nonsense", b"\xc1 more of it"]


async def test_the_lag_of_a_partition_is_known_also_while_it_can_not_be_taken_or_not_even_claimed(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_settings: Settings,
    database: Database,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the worker's metric, by what ``apishield reconcile`` says, and by what tells orphaned charges from those that wait."""
    pipeline = Pipeline(database, kafka_settings, tmp_path)

    async def be_away(*_: object) -> None:
        raise unavailable()

    await agree(database, kafka_settings)
    events = [event for event in traffic(FIRST, 60, clock()) if isinstance(event, DecisionEvent)]
    messages = [message_of(event, spool=1000 + number) for number, event in enumerate(events)]
    publish(kafka, kafka_settings, *messages[:10])
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        await until_counted(database, (10, 0))
        await until(lambda: consumer.stats.lag == {0: 0, 1: 0, 2: 0, 3: 0}, "no lag")
        assert (await backlog(database, kafka_settings, tmp_path)).messages == {0: 0, 1: 0, 2: 0, 3: 0}
        with monkeypatch.context() as patch:
            patch.setattr(LedgerService, "apply", be_away)
            publish(kafka, kafka_settings, *messages[10:30])
            await until(lambda: consumer.stats.lag == {0: 0, 1: 20, 2: 0, 3: 0}, "the lag of what can't be taken")
            await until(lambda: consumer.stats.failures >= 3, "it to be tried again")
            publish(kafka, kafka_settings, *messages[30:40])
            await until(lambda: consumer.stats.lag == {0: 0, 1: 30, 2: 0, 3: 0}, "the lag to grow")
            waits = await backlog(database, kafka_settings, tmp_path)
            assert (waits.messages, waits.is_empty) == ({0: 0, 1: 30, 2: 0, 3: 0}, False), "what the command tells"
            written = await pipeline.written()
            assert written is not None
            assert not await pipeline.has_arrived(written)
        await until(lambda: consumer.stats.lag == {0: 0, 1: 0, 2: 0, 3: 0}, "no lag again")
        assert await pipeline.has_arrived(written)
    with monkeypatch.context() as patch:
        patch.setattr(LedgerService, "claim", be_away)
        publish(kafka, kafka_settings, *messages[40:])
        async with consuming(kafka_settings, database, clock) as (consumer, _):
            await until(lambda: consumer.stats.lag.get(1) == 20, "the lag of what was never claimed here")
    async with consuming(kafka_settings, database, clock):
        await until_counted(database, (60, 0))


async def test_nothing_is_lost_or_counted_twice_when_the_broker_is_killed(
    node: Node, kafka: KafkaServer, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = traffic(FIRST, 900, clock())
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        node.write(events[:500])
        await node.publish()
        await until(lambda: consumer.stats.messages > 0, "the first messages")
        node.write(events[500:])
        kafka.kill()
        with pytest.raises(Exception, match="holds up to"):
            await node.worker.step()
        assert node.publisher.stats.failures == 1
        kafka.start()
        await node.publish()
        await until_counted(database, counted(events), clock)
    assert node.publisher.stats.waiting_since_us == 0
    assert node.publisher.stats.events == len(events), "also those that arrived after the call that had sent them"


async def test_a_worker_that_is_killed_is_replaced_by_another_and_nothing_is_lost_or_counted_twice(
    tmp_path: Path, node: Node, kafka_settings: Settings, database: Database, reaper: Reaper
) -> None:
    events = [event for event in traffic(FIRST, 4000, system_clock()) if isinstance(event, DecisionEvent)]
    await agree(database, kafka_settings)
    workers = [
        await asyncio.to_thread(WorkerProcess, reaper, tmp_path / name, kafka_settings, database) for name in ("a", "b")
    ]
    try:
        async with asyncio.timeout(60):
            while len(await owners(database)) < 2:
                await asyncio.sleep(0.1)
        for first in range(0, len(events), 100):
            node.write(events[first : first + 100])
            await node.publish()
            if first == 2000:
                workers[0].kill()
        await until_counted(database, (len(events), 0))
        assert await owners(database) == {f"{socket.gethostname()}:{workers[1].pid}"}
    finally:
        for worker in workers:
            worker.kill()


async def test_the_worker_stays_in_the_group_and_goes_on_where_it_was_while_the_database_is_away(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock, postgres_server: PostgresServer
) -> None:
    events = [event for event in traffic(FIRST, 400, clock()) if isinstance(event, DecisionEvent)]
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        node.write(events[:200])
        await node.publish()
        await until_counted(database, (200, 0))
        postgres_server.kill()
        node.write(events[200:])
        await node.publish()  # the publisher doesn't need the database
        await until(lambda: consumer.stats.failures >= 2, "the worker to notice")
        postgres_server.start()
        await until_counted(database, (400, 0))
        assert consumer.stats.failures < 50


async def test_a_stale_owner_is_fenced_and_claims_again_what_is_still_its_turn(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = [event for event in traffic(FIRST, 400, clock()) if isinstance(event, DecisionEvent)]
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        node.write(events[:200])
        await node.publish()
        await until_counted(database, (200, 0))
        thief = LedgerService(database, clock)
        for partition in range(4):
            await thief.claim(stream_of(kafka_settings.kafka_topic, partition), "thief")
        node.write(events[200:])
        await node.publish()
        await until_counted(database, (400, 0))
        assert consumer.stats.fenced == 4


async def test_a_topic_that_is_not_what_it_was_is_refused_with_the_way_out(
    kafka: KafkaServer, kafka_settings: Settings, database: Database
) -> None:
    name = kafka_settings.kafka_topic
    assert (await agree(database, kafka_settings)).partitions == 4
    more = kafka_settings.model_copy(update={"kafka_partitions": 9})
    assert (await agree(database, more)).partitions == 4  # fixed at the first start
    remove(kafka, [name])
    remake(kafka, NewTopic(name, 4, 1))
    with pytest.raises(ConfigurationError, match="deleted and made again, or KAFKA_BOOTSTRAP_SERVERS"):
        await agree_patiently(database, kafka_settings)
    small = kafka_settings.model_copy(update={"kafka_topic": f"{name}.small"})
    remake(kafka, NewTopic(small.kafka_topic, 2, 1))
    with pytest.raises(ConfigurationError, match=r"has 2 partitions and 4 are in use.*--alter"):
        await agree_patiently(database, small)


async def agree_patiently(database: Database, settings: Settings) -> None:
    """A broker may know for a moment less than its controller has answered."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(KafkaException):
                await agree(database, settings)
                return


def remove(kafka: KafkaServer, names: list[str]) -> None:
    admin = kafka.admin()
    for future in admin.delete_topics(names).values():
        future.result(30)


def remake(kafka: KafkaServer, topic: NewTopic) -> None:
    admin = kafka.admin()
    for future in admin.create_topics([topic]).values():
        future.result(30)


def message_of(event: Event, *, spool: int) -> bytes:
    """A message that holds one event, of a spool of its own."""
    (value,) = encode_messages(spool, [Frame(100, msgspec.msgpack.encode([event]))])
    return value


def publish(kafka: KafkaServer, settings: Settings, *values: bytes) -> None:
    """Publishes messages as somebody else would, one after the other, all to the same partition."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.max.bytes": 2_000_000})
    for value in values:
        producer.produce(settings.kafka_topic, value, partition=1)
    assert producer.flush(30) == 0


def dead_letters(kafka: KafkaServer, settings: Settings) -> list[tuple[bytes | None, dict[str, str]]]:
    """All dead letters, as people would read them."""
    client = KafkaConsumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": f"{settings.kafka_topic}.people",
            "fetch.message.max.bytes": 2_000_000,
        }
    )
    topic = dead_topic(settings.kafka_topic)
    try:
        first, behind = client.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        client.assign([TopicPartition(topic, 0, first)])
        found = client.consume(behind - first, 30)
    finally:
        client.close()
    return [(message.value(), {name: as_text(value) for name, value in _pairs(message)}) for message in found]


def _pairs(message: Message) -> list[tuple[str, str | bytes | None]]:
    headers = message.headers()
    assert isinstance(headers, list)
    return headers


def as_text(value: str | bytes | None) -> str:
    assert isinstance(value, bytes)
    return value.decode()
