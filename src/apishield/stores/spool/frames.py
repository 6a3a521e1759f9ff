"""How a frame lies in a file: a mark, a checksum, the payload's length, the frame's end position, the payload.

The checksum covers all that follows it, so that a frame whose length or position was damaged is as wrong as one whose
payload was. The mark is there to find the next frame behind a damaged one.
"""

from __future__ import annotations

import struct
from zlib import crc32

from apishield.core.events import Event, Frame, encode_events

MARK = b"ASp1"
MAX_FRAME_BYTES = 4 * 1024 * 1024
_HEADER = struct.Struct("<4sIIQ")
_CHECKED_FROM = 8  # behind the mark and the checksum itself
HEADER_BYTES = _HEADER.size
# No read takes more, whoever reads: ``folding`` relies on it. The largest frame fits in.
READ_BYTES = MAX_FRAME_BYTES * 3 // 2 + HEADER_BYTES


class FrameTooLargeError(ValueError):
    """These events are more than one frame may hold."""


def write_frame(events: list[Event], buffer: bytearray, start: int, end: int | None = None) -> int:
    """Makes ``buffer`` hold one frame of ``events`` that begins at position ``start``; returns where it ends.

    That is behind its bytes, or at ``end`` where the frame stands for others that were longer.

    Raises ``FrameTooLargeError``, and what the encoder raises for values that can't be written.
    """
    encode_events(events, buffer, HEADER_BYTES)
    length = len(buffer) - HEADER_BYTES
    if length > MAX_FRAME_BYTES:
        raise FrameTooLargeError(f"{length} bytes")
    end = start + len(buffer) if end is None else end
    _HEADER.pack_into(buffer, 0, MARK, 0, length, end)
    with memoryview(buffer) as view:
        checksum = crc32(view[_CHECKED_FROM:])
    buffer[4:8] = checksum.to_bytes(4, "little")
    return end


def frame_at(data: bytes, offset: int) -> Frame | None:
    """The frame that begins at ``offset``; ``None`` where there is no whole, undamaged one."""
    stop = offset + HEADER_BYTES
    if stop > len(data):
        return None
    mark, checksum, length, end = _HEADER.unpack_from(data, offset)
    if mark != MARK or length > MAX_FRAME_BYTES or stop + length > len(data):
        return None
    with memoryview(data) as view:
        if crc32(view[offset + _CHECKED_FROM : stop + length]) != checksum:
            return None
    return Frame(end, data[stop : stop + length])


def size_of(frame: Frame) -> int:
    """How many bytes the frame takes in its file."""
    return HEADER_BYTES + len(frame.payload)


def next_frame(data: bytes, offset: int) -> int | None:
    """Where, from ``offset`` on, the next whole frame begins."""
    while (offset := data.find(MARK, offset)) >= 0:
        if frame_at(data, offset) is not None:
            return offset
        offset += 1
    return None


def is_torn(data: bytes, offset: int) -> bool:
    """Whether ``data`` breaks off in the midst of a frame that begins at ``offset``, as when its writer was killed."""
    if len(data) - offset < HEADER_BYTES:
        return MARK.startswith(data[offset : offset + len(MARK)])
    mark, _, length, _ = _HEADER.unpack_from(data, offset)
    return bool(mark == MARK and length <= MAX_FRAME_BYTES and offset + HEADER_BYTES + length > len(data))


def events_in(payload: bytes) -> int:
    """How many events a payload holds, read from its first bytes (the head of a MessagePack array)."""
    first = payload[0] if payload else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    width = {0xDC: 2, 0xDD: 4}.get(first, 0)
    return int.from_bytes(payload[1 : 1 + width], "big")
