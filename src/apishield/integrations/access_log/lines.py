"""What a line of an access log says. Pure.

A line holds a JSON object with ``decision``, ``status``, ``seconds`` or ``milliseconds``, and ``bytes`` if it likes; what
else is in it, and what a syslog daemon writes before it, is skipped. Numbers may stand in quotes.
"""

from __future__ import annotations

import msgspec

from apishield.client.models import Report

LONGEST_MS = 86_400_000.0  # the service takes no longer ones; a websocket may well last longer
MOST_BYTES = 2**50
CLIENT_CLOSED_REQUEST = 499  # Envoy writes 0 where the client went away before there was an answer
_NONE = frozenset({"", "-"})


class UnreadableLine(ValueError):  # noqa: N818  it is a kind of line
    """A line that says nothing we understand; the text is why: one of a few, so that they can be counted."""


class _Line(msgspec.Struct, frozen=True):
    decision: str | None = None
    status: int | None = None
    seconds: float | None = None
    milliseconds: float | None = None
    bytes: int | None = None


_decode = msgspec.json.Decoder(_Line, strict=False).decode


def read_line(line: bytes) -> Report | None:
    """The result that a line tells of; ``None`` where it is empty, or of a request about which nobody was asked.

    Raises ``UnreadableLine`` for all others.
    """
    begin = line.find(b"{")
    if begin < 0:
        if line.strip(b" \t\r\n\0"):
            raise UnreadableLine("it holds no JSON object")
        return None
    try:
        said = _decode(line[begin:])
    except msgspec.ValidationError as error:
        raise UnreadableLine(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableLine("its JSON is malformed") from error
    if said.decision is None or said.decision in _NONE:
        return None
    if not said.decision.startswith("dec_") or len(said.decision) > 100:
        raise UnreadableLine("decision is no id of a decision")
    return Report(
        decision_id=said.decision,
        status=_status(said.status),
        latency_ms=_latency_ms(said),
        bytes=None if said.bytes is None else min(max(said.bytes, 0), MOST_BYTES),
    )


def _status(status: int | None) -> int:
    if status == 0:
        return CLIENT_CLOSED_REQUEST
    if status is None or not 100 <= status <= 599:
        raise UnreadableLine("status is no HTTP status")
    return status


def _latency_ms(said: _Line) -> float:
    latency_ms = said.milliseconds if said.seconds is None else said.seconds * 1000
    if latency_ms is None:
        raise UnreadableLine("it has neither seconds nor milliseconds")
    return round(min(max(latency_ms, 0.0), LONGEST_MS), 3)
