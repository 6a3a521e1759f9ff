"""What is asked: whose traffic, when, which part of it. Everything that can be wrong with a question is found here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from apishield.analytics.periods import Period, parse_instant, parse_zone
from apishield.analytics.rollup import ADMITTED, OTHER
from apishield.analytics.steps import SECOND_US
from apishield.core.records import Environment
from apishield.services.checks import Faults
from apishield.services.recorder import OTHER_METHOD
from apishield.stores.sql.analytics.plan import Selection

MOST_DAYS: Final = 3_660
_DAY_US: Final = 86_400 * SECOND_US

_UNAUTHORIZED = (
    "key_missing",
    "key_malformed",
    "key_unknown",
    "key_wrong_kind",
    "key_revoked",
    "key_expired",
    "key_disabled",
    "scope_missing",
    "ip_not_allowed",
)
_BY_OUTCOME: Mapping[str, tuple[str, ...]] = {
    "allowed": (ADMITTED,),
    "limited": ("rate_limited", "concurrency_exceeded"),
    "quota": ("quota_exceeded",),
    "blocked": ("blocked", "abuse_blocked"),
    "unauthorized": _UNAUTHORIZED,
    "unavailable": ("stale", "store_unavailable"),
    "malformed": ("bad_request",),
}
CODES: Final = frozenset(code for codes in _BY_OUTCOME.values() for code in codes)
"""Every code that a decision can have."""

UNKNOWN: Final = "unknown"
"""The code of what was refused before there was a ledger: an upgrade carried it over, and nobody had written down why."""

OUTCOMES: Final[Mapping[str, frozenset[str]]] = {
    **{outcome: frozenset(codes) for outcome, codes in _BY_OUTCOME.items()},
    "refused": CODES - {ADMITTED} | {UNKNOWN},
    **{code: frozenset({code}) for code in sorted(CODES - {"blocked"} | {UNKNOWN})},
}
"""What ``outcome`` can name, a group of codes or one code, and the codes that it stands for."""


class Filters(msgspec.Struct, frozen=True):
    """The part of the traffic that is asked about, as a caller writes it; ``None`` is any."""

    key_id: str | None = None
    customer_id: str | None = None
    endpoint: str | None = None
    method: str | None = None
    outcome: str | None = None
    status: str | None = None
    country: str | None = None
    environment: Environment = Environment.LIVE


class Question(msgspec.Struct, frozen=True):
    """A question that can be answered: of one tenant and environment, in a period of whole minutes."""

    tenant_id: str
    environment: Environment
    period: Period
    selection: Selection
    time_zone: str
    now_us: int


def ask(
    tenant_id: str,
    filters: Filters,
    *,
    now_us: int,
    from_: str | None = None,
    to: str | None = None,
    time_zone: str = "UTC",
) -> Question:
    """The question that these texts are. Raises 422 that names every parameter that can't be used.

    Without ``to`` a period ends now, without ``from`` it is the 24 hours before its end. It is widened to whole minutes.
    """
    faults = Faults()
    zone = _zone(time_zone, faults)
    period = read_period(from_, to, now_us, faults, zone)
    selection = Selection(
        codes=_codes(filters.outcome, faults),
        key_id=filters.key_id,
        customer_id=filters.customer_id,
        endpoint=filters.endpoint,
        method=None if filters.method is None else _method(filters.method),
        country=None if filters.country is None else _capitals(filters.country),
        status=_status_class(filters.status, faults),
    )
    faults.raise_any()
    return Question(tenant_id, filters.environment, period, selection, time_zone, now_us)


def read_period(from_: str | None, to: str | None, now_us: int, faults: Faults, zone: ZoneInfo | None = None) -> Period:
    """The period from ``from_`` to ``to``, widened to whole minutes; what is wrong with it goes to ``faults``."""
    to_us = _instant("?to", to, now_us, zone, faults) if to is not None else now_us
    from_us = _instant("?from", from_, now_us, zone, faults) if from_ is not None else max(0, to_us - _DAY_US)
    if not faults.found and from_us > to_us:
        faults.add(
            "?from", f"must not be after to; the period would end {(from_us - to_us) // SECOND_US:,} s before it begins"
        )
    if not faults.found and to_us - from_us > MOST_DAYS * _DAY_US:
        faults.add("?from", f"asks for {(to_us - from_us) // _DAY_US:,} days; ask for at most {MOST_DAYS:,} at once")
    if faults.found:
        return Period(now_us, now_us)
    return Period(from_us, to_us).whole_minutes()


def _zone(name: str, faults: Faults) -> ZoneInfo | None:
    try:
        return parse_zone(name)
    except ValueError as error:
        faults.add("?time_zone", str(error).rstrip("."))
        return None


def _instant(pointer: str, text: str, now_us: int, zone: ZoneInfo | None, faults: Faults) -> int:
    try:
        return parse_instant(text, now_us, zone)
    except ValueError as error:
        faults.add(pointer, str(error).rstrip("."))
        return now_us


def _capitals(text: str) -> str:
    return text if text == OTHER else text.upper()


def _method(text: str) -> str:
    """As sums name it; those that are not HTTP's own are one, which single decisions call by another name."""
    method = _capitals(text)
    return OTHER if method == OTHER_METHOD else method


def _codes(outcome: str | None, faults: Faults) -> frozenset[str] | None:
    if outcome is None:
        return None
    codes = OUTCOMES.get(outcome)
    if codes is None:
        faults.add("?outcome", f"{outcome[:40]!a} is not one of {', '.join(OUTCOMES)}")
    return codes


def _status_class(status: str | None, faults: Faults) -> int | None:
    if status is None:
        return None
    if len(status) == 3 and status[0] in "12345" and status[1:] == "xx":
        return int(status[0])
    faults.add("?status", f"{status[:20]!a} is not one of 1xx, 2xx, 3xx, 4xx, 5xx, which is as exact as sums are kept")
    return None
