"""What a message holds: the frames of one spool, or what of them goes to one partition, in order.

Each frame keeps its ``end``. What is published twice, because a publisher was killed before it had noted how far it came,
is then known to a partition's consumer: it is not behind the last frame of that spool that was taken from the partition.
That only holds while the same event always goes to the same partition, so the number of partitions never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final
from zlib import crc32

import msgspec

from apishield.core.events import (
    CountEvent,
    DecisionEvent,
    Event,
    Frame,
    Integer,
    ReadFrame,
    SpoolPart,
    encode_events,
)

VERSION: Final = 1
MESSAGE_BYTES: Final = 512 * 1024
"""What a message is filled up to; half of what brokers take by default."""
LARGEST_MESSAGE_BYTES: Final = 1024 * 1024
BLOCK: Final = 4096
"""So many successive decisions of a spool go to one partition: the bits of their results lie in one row of the ledger."""


class UnreadableMessageError(ValueError):
    """A message that is none of ours, or of another version; says why."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    version: int
    spool: Integer
    frames: list[tuple[Integer, bytes]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Envelope).decode
_decode_items = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def partition_of(spool: int, event: Event, partitions: int) -> int:
    """The partition of an event that lies in ``spool``.

    What belongs to one decision meets in one partition, in whichever node's spool it lies: the decision, its results, what it
    cost in the end. So its worker knows the decision when the result comes, and need not look for it in the database. They go
    by the place of the decision, in blocks, so that one tenant fills all partitions. Counts go by tenant and key.
    """
    if isinstance(event, DecisionEvent):
        return (spool + event.sequence // BLOCK) % partitions
    if isinstance(event, CountEvent):
        return _hash(event.tenant_id, event.key_id or "") % partitions
    return (event.spool + event.sequence // BLOCK) % partitions


@lru_cache(maxsize=65_536)
def _hash(tenant_id: str, key_id: str) -> int:
    return crc32(f"{tenant_id}\0{key_id}".encode())


def split(part: SpoolPart, partitions: int) -> dict[int, list[Frame]]:
    """The frames of each partition, in order. The same frame is always split in the same way.

    A frame that can't be read goes whole to the first partition, whose consumer puts it aside with the reason.
    """
    found: dict[int, list[Frame]] = {}
    for frame in part.frames:
        try:
            events = frame.events()
        except msgspec.DecodeError:
            found.setdefault(0, []).append(frame)
            continue
        shares: dict[int, list[Event]] = {}
        for event in events:
            shares.setdefault(partition_of(part.spool, event, partitions), []).append(event)
        for partition, share in shares.items():
            found.setdefault(partition, []).extend(_pieces(frame.end, share))
    return found


def _pieces(end: int, events: list[Event]) -> list[Frame]:
    """One frame, as a rule. Of a very large one several, whose ends are the last positions of the frame."""
    payloads = list(_halved(events))
    return [Frame(end - behind, payload) for behind, payload in zip(range(len(payloads))[::-1], payloads, strict=True)]


def _halved(events: list[Event]) -> Iterator[bytes]:
    buffer = bytearray()
    encode_events(events, buffer, 0)
    if len(buffer) <= MESSAGE_BYTES or len(events) == 1:
        yield bytes(buffer)
        return
    half = len(events) // 2
    yield from _halved(events[:half])
    yield from _halved(events[half:])


def encode_messages(spool: int, frames: Iterable[Frame]) -> list[bytes]:
    """The frames as values of messages: one as a rule, several where they are more than ``MESSAGE_BYTES``."""
    messages: list[bytes] = []
    some: list[tuple[int, bytes]] = []
    size = 0
    for frame in frames:
        if some and size + len(frame.payload) > MESSAGE_BYTES:
            messages.append(_encode(_Envelope(VERSION, spool, some)))
            some, size = [], 0
        some.append((frame.end, frame.payload))
        size += len(frame.payload)
    if some:
        messages.append(_encode(_Envelope(VERSION, spool, some)))
    return messages


def decode_message(value: bytes | None) -> SpoolPart:
    """The frames of a message. Raises ``UnreadableMessageError``. What is in the frames is not looked at; see ``readable``."""
    if not value:
        raise UnreadableMessageError("empty")
    if len(value) > LARGEST_MESSAGE_BYTES:
        raise UnreadableMessageError(f"oversize: {len(value)} bytes, at most {LARGEST_MESSAGE_BYTES} are read")
    try:
        envelope = _decode(value)
    except Exception as error:  # noqa: BLE001  such as RecursionError: whatever it is, no later try would go better
        raise UnreadableMessageError(_reason(value, error)) from None
    if envelope.version != VERSION:
        raise UnreadableMessageError(f"version: {envelope.version}, this worker reads {VERSION}")
    return SpoolPart(envelope.spool, [Frame(end, payload) for end, payload in envelope.frames])


def readable(part: SpoolPart) -> tuple[SpoolPart, str | None]:
    """The part less the frames that hold anything but events, and what is wrong with the first of these."""
    frames: list[Frame] = []
    reason: str | None = None
    for frame in part.frames:
        try:
            read = ReadFrame.of(frame)
            if any("\0" in tenant_id for tenant_id in {event.tenant_id for event in read.events()}):
                raise msgspec.DecodeError("a tenant_id holds NUL, which no text of PostgreSQL's may")
        except msgspec.DecodeError as error:
            reason = reason or f"undecodable: the frame up to {frame.end}: {error}"
        else:
            frames.append(read)
    return SpoolPart(part.spool, frames), reason


def _reason(value: bytes, error: Exception) -> str:
    """Tells a message of a later version, whose layout may differ in anything but its first item, from garbage."""
    try:
        number = msgspec.msgpack.decode(_decode_items(value)[0], type=int)
    except Exception:  # noqa: BLE001  what is no MessagePack is of no version
        number = VERSION
    return f"undecodable: {error}" if number == VERSION else f"version: {number}, this worker reads {VERSION}"
