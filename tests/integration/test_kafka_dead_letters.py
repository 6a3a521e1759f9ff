"""What can't be taken from Kafka goes to the dead letters, with the reason and once; all others are taken."""

from __future__ import annotations

import msgspec
import pytest

from apishield.core.events import DecisionEvent, Event, Intake, ResultEvent
from apishield.services.ledger import Applied, Claim, LedgerService
from apishield.settings import Settings
from apishield.stores.kafka.messages import LARGEST_MESSAGE_BYTES
from apishield.stores.kafka.topics import agree
from apishield.stores.sql.database import Database
from apishield.stores.sql.failures import unavailable
from tests.support.clock import ManualClock
from tests.support.kafka import KafkaServer, kafka, kafka_server, kafka_settings
from tests.support.kafka_ledger import FIRST, database, dead_letters, message_of, node, publish
from tests.support.pipeline import Node, consuming, requests_in, traffic, until, until_counted

__all__ = ["database", "kafka", "kafka_server", "kafka_settings", "node"]

pytestmark = pytest.mark.timeout(240)  # a broker that was killed takes its time, and longer on shared cores


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
