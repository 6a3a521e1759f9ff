"""Makes room in spools that run full: the oldest details that wait become counts, segment by segment.

Nothing is counted twice, whatever of it was taken already: a segment is folded only where no reader can have come to it. A
reader deletes each segment that it has passed before it reads on, and no read takes more than ``READ_BYTES``; so whoever is
that far behind the end of the oldest segment has been reached by nobody. Its frames keep their last position as their end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from apishield.core.events import HELD, PEEK, DecisionEvent, Event, Frame, ResultEvent, SettlementEvent
from apishield.stores.spool.counts import Counts
from apishield.stores.spool.files import open_file, segment_name, segments_in
from apishield.stores.spool.frames import READ_BYTES, frame_at, size_of, write_frame

_MOST_EVENTS = 4096  # of one frame
_WORTHWHILE = 0.9


def foldable(directory: int, read_bytes: int = READ_BYTES) -> list[int]:
    """Where the segments of a spool begin that may be folded, the oldest first."""
    starts = [start for start, _ in segments_in(directory)]
    if len(starts) < 3:
        return []
    return [start for start in starts[1:-1] if start >= starts[1] + read_bytes]


def fold_segment(directory: int, spool: int, start: int, following: int) -> tuple[int, int]:
    """Replaces the details of the segment at ``start`` by counts; returns how many bytes and events went.

    ``following`` is where the next segment begins. A segment that holds damaged frames, or would hardly shrink, stays as
    it is: (0, 0). Raises ``OSError``, with the segment as it was.
    """
    data = _content(directory, segment_name(start))
    frames = list(_frames(data, following))
    if sum(map(size_of, frames)) != len(data) or not frames:
        return 0, 0
    events = [event for frame in frames for event in frame.events()]
    folded = fold(spool, events)
    made = b"".join(_as_frames(folded, start, frames[-1].end))
    if len(made) > _WORTHWHILE * len(data):
        return 0, 0
    _replace(directory, segment_name(start), made)
    return len(data) - len(made), len(events) - len(folded)


def fold(spool: int, events: Iterable[Event]) -> list[Event]:
    """Few events that count as ``events`` of one spool do.

    Details stay where something is still to come that needs them: of decisions that may be settled (what is left of those is
    short), and of results and settlements of other decisions than these.
    """
    counts, kept = Counts(), list[Event]()
    decisions: dict[int, DecisionEvent] = {}
    later: list[ResultEvent | SettlementEvent] = []
    for event in events:
        if isinstance(event, DecisionEvent):
            if not event.flags & PEEK:
                decisions[event.sequence] = event
        elif isinstance(event, ResultEvent | SettlementEvent):
            (later if event.spool == spool and event.sequence in decisions else kept).append(event)
        else:
            counts.put_back([event])
    settled = {event.sequence for event in later if isinstance(event, SettlementEvent)}
    waiting = {number for number, event in decisions.items() if event.flags & HELD and number not in settled}
    for number, decision in decisions.items():
        if number in waiting:
            kept.append(_shortened(decision))
        else:
            counts.add(decision)
    for event in later:
        decision = decisions[event.sequence]
        if event.sequence in waiting:
            kept.append(event)
        elif isinstance(event, ResultEvent):
            counts.add_result(decision, event)
        else:
            counts.add_settlement(decision, event)
    kept.sort(key=_is_later)  # a decision before what came of it
    return [*counts.take(), *kept]


def _is_later(event: Event) -> bool:
    return not isinstance(event, DecisionEvent)


def _shortened(event: DecisionEvent) -> DecisionEvent:
    return DecisionEvent(
        event.sequence, event.at_us, event.tenant_id, event.code, event.flags, event.key_id, event.customer_id,
        event.method, event.path, event.endpoint, None, event.country, event.units,
    )  # fmt: skip


def _as_frames(events: list[Event], start: int, end: int) -> Iterator[bytes]:
    """``events`` in frames, the last of which ends at ``end``, and the others right behind ``start``."""
    buffer = bytearray()
    parts = [events[first : first + _MOST_EVENTS] for first in range(0, len(events), _MOST_EVENTS)] or [[]]
    for number, part in enumerate(parts, 1):
        write_frame(part, buffer, start, end if number == len(parts) else start + number)
        yield bytes(buffer)


def _frames(data: bytes, following: int) -> Iterator[Frame]:
    offset = 0
    while (frame := frame_at(data, offset)) is not None and frame.end <= following:
        yield frame
        offset += size_of(frame)


def _content(directory: int, name: str) -> bytes:
    with os.fdopen(open_file(directory, name, os.O_RDONLY), "rb") as file:
        return file.read()


def _replace(directory: int, name: str, content: bytes) -> None:
    draft = f"{name}.fold"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft, dir_fd=directory)  # of a worker that was killed
    try:
        with os.fdopen(open_file(directory, draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=directory)
        raise
