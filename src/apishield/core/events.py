"""Events: what the data plane writes down, and the only source of every figure that is shown or billed.

Owns: what an event holds, how events lie in a frame (one turn of one process), how a frame is written and read.
Does not own: where frames lie (``stores.spool``, ``stores.kafka``), what is made of them (``analytics``, ``services.ledger``).

A decision makes one ``DecisionEvent``. What becomes known later comes as an event of its own, which names the decision by its
place: ``ResultEvent`` (what the API answered) and ``SettlementEvent`` (what the check cost in the end). A ``CountEvent``
stands for many decisions of one kind in one minute whose details were given up: a flood of refusals, or a spool that ran full.

An event lies in the spool of the process that made it; ``sequence`` counts a process' decisions. Times are microseconds since
the Unix epoch. Nothing here is a secret: no query string, no body, no credential.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What the ledger can keep; MessagePack goes further."""

Units = Integer | dict[str, Integer]
"""What a check cost: a number of requests, or units by name."""

TEST: Final = 1  # flag: the key's environment is test
PEEK: Final = 2  # flag: asked at cost 0; kept as detail, never counted
DEGRADED: Final = 4  # flag: decided without the store, or with an old snapshot
HELD: Final = 8  # flag: the store keeps a record, to settle or release by
CATALOGUED: Final = 16  # flag: ``endpoint`` is a template of the tenant's catalogue

MAX_PATH: Final = 256
MAX_USER_AGENT: Final = 128
MAX_ATTRIBUTES: Final = 8
MAX_ATTRIBUTE: Final = 64


class Refusal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The limit that refused, as it stood: what a receipt explains.

    ``retry_after_us`` is ``None`` where the cost can never fit.
    """

    policy_id: str | None
    limit: str
    strategy: str
    unit: str
    ceiling: Integer
    remaining: Integer
    window_us: Integer | None
    retry_after_us: Integer | None


class DecisionEvent(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """One decision.

    ``code`` is the decision's, of the catalogue of problems (``ok``, ``rate_limited`` …). ``path`` is normalised and cut at
    ``MAX_PATH``; ``endpoint`` is the catalogue's template where one fits. ``address`` is the caller's, whole. ``units`` is what
    the check asked for, and, where ``code`` is ``ok``, what was charged. ``message`` is why it was refused.
    """

    sequence: Integer
    at_us: Integer
    tenant_id: str
    code: str
    flags: Integer
    key_id: str | None = None
    customer_id: str | None = None
    method: str | None = None
    path: str | None = None
    endpoint: str | None = None
    address: str | None = None
    country: str | None = None
    units: Units = 1
    user_agent: str | None = None
    attributes: dict[str, str] | None = None
    message: str = ""
    refusal: Refusal | None = None


class ResultEvent(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """What the protected API answered to the decision at ``spool`` and ``sequence``, which was made at ``decided_at_ms``."""

    spool: Integer
    sequence: Integer
    decided_at_ms: Integer
    tenant_id: str
    at_us: Integer
    status: Integer
    latency_us: Integer
    bytes: Integer | None = None


class SettlementEvent(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """What a check that was admitted cost in the end; told once, by whoever took the record.

    ``units`` are the final units, by name; those that are absent stay as estimated. ``released`` gives back all of them.
    """

    spool: Integer
    sequence: Integer
    decided_at_ms: Integer
    tenant_id: str
    at_us: Integer
    units: dict[str, Integer]
    released: bool = False


class CountEvent(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=4):
    """``count`` decisions of one kind in the minute that begins at ``at_us``, without their details.

    ``units`` is their sum. ``results`` are results that were folded in with them: status, and how many.
    """

    at_us: Integer
    tenant_id: str
    code: str
    flags: Integer
    count: Integer
    key_id: str | None = None
    customer_id: str | None = None
    method: str | None = None
    path: str | None = None
    endpoint: str | None = None
    country: str | None = None
    units: Units = 0
    results: dict[Integer, Integer] | None = None


Event = DecisionEvent | ResultEvent | SettlementEvent | CountEvent

encode_events = msgspec.msgpack.Encoder().encode_into
"""``encode_events(events, buffer, offset)`` writes a list of events into a bytearray."""

_decode = msgspec.msgpack.Decoder(list[Event]).decode


def decode_events(payload: bytes | memoryview) -> list[Event]:
    """The events of a frame, in the order in which they were made.

    Raises ``msgspec.DecodeError`` for what is none, whatever is wrong with it: text that is no UTF-8, arrays a thousand deep.
    """
    try:
        return _decode(payload)
    except msgspec.DecodeError:
        raise
    except Exception as error:  # noqa: BLE001  nested too deeply, no UTF-8 …: it stays so
        raise msgspec.DecodeError(f"{type(error).__name__}: {error}") from None


class EventRef(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """The place of a decision: the spool of the process that made it, and its number there."""

    spool: int
    sequence: int


class Frame(msgspec.Struct, frozen=True, gc=False):
    """The events of one turn of one process.

    ``end`` is the position in the spool right behind the frame. Positions only grow over the life of a spool, whatever
    is folded or deleted, so that "up to here" says exactly which frames were taken.
    """

    end: int
    payload: bytes

    def events(self) -> list[Event]:
        """Its events. Raises ``msgspec.DecodeError`` where the payload is none of ours."""
        return decode_events(self.payload)


class ReadFrame(Frame, frozen=True, gc=False):
    """A frame whose events were read already, since that is how it was found to be whole."""

    read: list[Event]

    @classmethod
    def of(cls, frame: Frame) -> ReadFrame:
        """Raises ``msgspec.DecodeError`` where the payload is none of ours."""
        return cls(frame.end, frame.payload, frame.events())

    def events(self) -> list[Event]:
        """Its events."""
        return self.read


class SpoolPart(msgspec.Struct, frozen=True):
    """Frames of one spool, in order."""

    spool: int
    frames: list[Frame]


class Intake(msgspec.Struct, frozen=True):
    """What is taken into the ledger in one transaction: ``parts`` lie between ``start`` and ``end`` of ``stream``.

    A stream is what has one position: ``spool:0a1b2c3d`` (in bytes) or ``kafka:apishield.events:3`` (in offsets).
    """

    stream: str
    start: int
    end: int
    parts: list[SpoolPart]
