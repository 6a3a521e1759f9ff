"""What is published in any pieces, and again after any crash, is taken once, in order, by the partition it belongs to."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.events import CountEvent, DecisionEvent, Event, Frame, ResultEvent, SettlementEvent, SpoolPart
from apishield.stores.kafka import messages
from apishield.stores.kafka.messages import (
    UnreadableMessageError,
    decode_message,
    encode_messages,
    partition_of,
    readable,
    split,
)

SPOOL = 0x0A1B2C3D
encode = msgspec.msgpack.encode
tenants, keys = st.sampled_from(["ten_1", "ten_2"]), st.sampled_from([None, "key_1", "key_2", "key_3"])
numbers = st.integers(0, 20_000)
events = st.one_of(
    st.builds(DecisionEvent, numbers, st.just(1), tenants, st.just("ok"), st.just(0), keys),
    st.builds(ResultEvent, st.just(SPOOL), numbers, st.just(1), tenants, st.just(2), st.just(200), st.just(3)),
    st.builds(SettlementEvent, st.just(SPOOL), numbers, st.just(1), tenants, st.just(2), st.just({"tokens": 7})),
    st.builds(CountEvent, st.just(1), tenants, st.just("blocked"), st.just(0), st.integers(1, 9), keys),
)


def frames_of(turns: list[list[Event]]) -> list[Frame]:
    end, frames = 0, []
    for turn in turns:
        payload = encode(turn)
        end += 20 + len(payload)
        frames.append(Frame(end, payload))
    return frames


def take(parts: Iterable[SpoolPart]) -> list[Event]:
    """What the ledger takes: of each spool only what lies behind the last frame that it has taken from the partition."""
    mark, found = -1, list[Event]()
    for frame in (frame for part in parts for frame in part.frames):
        if frame.end > mark:
            found += frame.events()
            mark = frame.end
    return found


@pytest.fixture
def _small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MESSAGE_BYTES", 120)


@pytest.mark.usefixtures("_small_messages")
@given(
    turns=st.lists(st.lists(events, min_size=1, max_size=12), max_size=12),
    partitions=st.integers(1, 7),
    data=st.data(),
)
def test_what_is_published_again_after_crashes_is_taken_once_and_in_order(
    turns: list[list[Event]], partitions: int, data: st.DataObject
) -> None:
    frames = frames_of(turns)
    logs: list[list[bytes]] = [[] for _ in range(partitions)]
    published = 0
    while published < len(frames):
        taken = data.draw(st.integers(1, len(frames) - published), label="frames of the chunk")
        part = SpoolPart(SPOOL, frames[published : published + taken])
        sent = {number: encode_messages(SPOOL, some) for number, some in split(part, partitions).items()}
        crashed = data.draw(st.booleans(), label="crashes")
        for number, values in sent.items():
            arrived = data.draw(st.integers(0, len(values)), label="that arrived") if crashed else len(values)
            logs[number] += values[:arrived]
        published += 0 if crashed else taken

    found = [take(decode_message(value) for value in log) for log in logs]
    wanted = [event for turn in turns for event in turn]
    for number, some in enumerate(found):
        assert some == [event for event in wanted if partition_of(SPOOL, event, partitions) == number]
    assert Counter(map(encode, wanted)) == Counter(encode(event) for some in found for event in some)


@given(number=numbers, partitions=st.integers(1, 50), key=keys, other_spool=st.integers(0, 2**32 - 1))
def test_what_belongs_to_one_decision_meets_in_one_partition(
    number: int, partitions: int, key: str | None, other_spool: int
) -> None:
    decided = DecisionEvent(number, 1, "ten_1", "ok", 0, key)
    first = ResultEvent(SPOOL, number, 1, "ten_1", 2, 200, 3)
    second = ResultEvent(SPOOL, number, 1, "ten_1", 9, 500, 8)
    settled = SettlementEvent(SPOOL, number, 1, "ten_1", 9, {"tokens": 1})
    told_elsewhere = {partition_of(other_spool, event, partitions) for event in (first, second, settled)}
    assert told_elsewhere == {partition_of(SPOOL, decided, partitions)}


def test_one_tenant_fills_all_partitions() -> None:
    decisions = [DecisionEvent(number, 1, "ten_1", "ok", 0, "key_1") for number in range(100_000)]
    counts = [CountEvent(1, "ten_1", "blocked", 0, 1, f"key_{number}") for number in range(1000)]
    for events in (decisions, counts):
        shares = Counter(partition_of(SPOOL, event, 6) for event in events)
        assert len(shares) == 6
        assert max(shares.values()) < 1.5 * min(shares.values())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"\xc1", "undecodable"),
        (b"{}", "undecodable"),
        (encode([1, 2, "no frames"]), "undecodable"),
        (encode([2, 7, []]), "version: 2, this worker reads 1"),
        (encode([3, {"another": "layout"}]), "version: 3, this worker reads 1"),
        (bytes(messages.LARGEST_MESSAGE_BYTES + 1), "oversize: 1048577 bytes"),
        (b"\x91" * 2000, "undecodable"),
        (b"\x91" * 200_000, "undecodable"),
        (b"\x93\x02" + b"\x91" * 2000, "undecodable"),
        (encode([1, 2**63, []]), "undecodable: Expected `int` <= 9223372036854775807"),
        (encode([1, 7, [[2**64 - 1, b""]]]), "undecodable: Expected `int` <= 9223372036854775807"),
        (b"\xdd\xff\xff\xff\xff", "undecodable"),
    ],
)
def test_what_is_no_message_of_ours_says_why(value: bytes | None, reason: str) -> None:
    with pytest.raises(UnreadableMessageError) as caught:
        decode_message(value)
    assert str(caught.value).startswith(reason)


@given(value=st.one_of(st.binary(max_size=200), st.integers(1, 3000).map(lambda depth: b"\x91" * depth)))
def test_whatever_bytes_come_they_are_read_or_refused_with_a_reason(value: bytes) -> None:
    with contextlib.suppress(UnreadableMessageError):
        readable(decode_message(value))
    part, reason = readable(SpoolPart(SPOOL, [Frame(9, value)]))
    assert bool(part.frames) == (reason is None)


DECISION = DecisionEvent(1, 1, "ten_1", "ok", 0, "key_1")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x91" * 2000, "Expected `int`, got `array`"),
        (encode([DECISION]).replace(b"ten_1", b"ten_\xff"), "UnicodeDecodeError"),
        (encode([msgspec.structs.replace(DECISION, sequence=2**63)]), "Expected `int` <= 9223372036854775807"),
        (encode([msgspec.structs.replace(DECISION, units={"tokens": 2**63})]), "Expected `int` <= 9223372036854775807"),
        (encode([msgspec.structs.replace(DECISION, tenant_id="a\0b")]), "a tenant_id holds NUL"),
    ],
)
def test_an_event_that_no_ledger_could_keep_is_none(payload: bytes, reason: str) -> None:
    part, why = readable(SpoolPart(SPOOL, [Frame(7, payload)]))
    assert part.frames == []
    assert why is not None
    assert why.startswith("undecodable: the frame up to 7: ")
    assert reason in why


def test_a_frame_that_holds_no_events_takes_no_other_with_it() -> None:
    good = frames_of(
        [[DecisionEvent(1, 1, "ten_1", "ok", 0, "key_1")], [DecisionEvent(2, 1, "ten_1", "ok", 0, "key_1")]]
    )
    bad = Frame(good[0].end + 1, b"\xc1")
    part = SpoolPart(SPOOL, [good[0], bad, good[1]])
    shares = split(part, 4)
    assert bad in shares[0]
    found, reason = readable(part)
    assert [(frame.end, frame.events()) for frame in found.frames] == [(frame.end, frame.events()) for frame in good]
    assert reason is not None
    assert f"the frame up to {bad.end}" in reason
