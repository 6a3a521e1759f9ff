"""Limits as people write them, and the numbers that a limit may have.

``"100/minute"`` and ``"5 per 15 minutes"`` are sliding windows; ``"10/second burst 20"`` is a token bucket;
``"1000/hour fixed"`` is a fixed window. Windows last 1 second to 31 days; what is longer, or follows the calendar, is a quota.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from zoneinfo import available_timezones

from apishield.core.model import (
    MAX_UNITS,
    MAX_WINDOW_SECONDS,
    MIN_WINDOW_SECONDS,
    SECOND_US,
    Algorithm,
    Concurrency,
    FixedWindow,
    Quota,
    SlidingWindow,
    TokenBucket,
)

RateAlgorithm = FixedWindow | SlidingWindow | TokenBucket

MAX_TEXT_LENGTH = 100
EXAMPLES = 'such as "100/minute", "5 per 15 minutes", "1000/hour fixed" or "10/second burst 20"'

_UNIT_NAMES = {
    1: "s sec secs second seconds",
    60: "m min mins minute minutes",
    3_600: "h hr hrs hour hours",
    86_400: "d day days",
    604_800: "w week weeks",
}
_SECONDS = {name: seconds for seconds, names in _UNIT_NAMES.items() for name in names.split()}
_CALENDAR = {"mo", "month", "months", "quarter", "quarters", "y", "year", "years"}
_NUMBER = r"[0-9](?:_?[0-9]){0,17}"
_parse = re.compile(
    rf"(?P<requests>{_NUMBER}) ?(?:/|per) ?(?:(?P<many>{_NUMBER}) ?)?(?P<unit>[a-z]+)"
    rf"(?:,? (?:burst ?=? ?(?P<burst>{_NUMBER})|(?P<kind>sliding|fixed)(?: window)?))?"
).fullmatch


def parse_limit(text: str) -> RateAlgorithm:
    """Reads a limit. Raises ``ValueError`` with everything that is wrong with ``text``, and with what would be right."""
    found = _parse(" ".join(text.lower().split())) if len(text) <= MAX_TEXT_LENGTH else None
    if found is None:
        raise ValueError(f"{text[:MAX_TEXT_LENGTH]!a} is not a limit; write one {EXAMPLES}")
    unit = found["unit"]
    if unit in _CALENDAR:
        raise ValueError(f"{text!a} follows the calendar; a window lasts 1 second to 31 days, use a quota for longer")
    if unit not in _SECONDS:
        raise ValueError(f"{unit!a} in {text!a} is not a unit of time; write second, minute, hour, day or week")
    requests, window_us = int(found["requests"]), int(found["many"] or 1) * _SECONDS[unit] * SECOND_US
    algorithm: RateAlgorithm
    if found["burst"] is not None:
        algorithm = TokenBucket(requests, window_us, int(found["burst"]))
    else:
        algorithm = (FixedWindow if found["kind"] == "fixed" else SlidingWindow)(requests, window_us)
    faults = list(faults_of(algorithm))
    if faults:
        raise ValueError(f"{text!a} can't be a limit: {'; '.join(faults)}")
    return algorithm


def faults_of(algorithm: Algorithm) -> Iterator[str]:
    """All that is wrong with the numbers of ``algorithm``, each as a sentence that names the number and its bounds.

    Requests, bursts and costs are integers of 1 to 10⁹; windows and time-outs last 1 second to 31 days.
    """
    yield from _units("requests", algorithm.requests)
    match algorithm:
        case Quota(time_zone=zone):
            if zone not in available_timezones():
                yield f"time_zone is {zone!a}; it must be a name of the IANA database, such as Europe/Berlin"
        case Concurrency(timeout_us=timeout_us):
            yield from _duration("time-out", timeout_us)
        case TokenBucket(window_us=window_us, burst=burst):
            yield from _duration("window", window_us)
            yield from _units("burst", burst)
        case FixedWindow(window_us=window_us) | SlidingWindow(window_us=window_us):
            yield from _duration("window", window_us)


def _units(name: str, value: int) -> Iterator[str]:
    if type(value) is not int or not 1 <= value <= MAX_UNITS:
        yield f"{name} is {value!a}; it must be a whole number of 1 to {MAX_UNITS:,}"


def _duration(name: str, value_us: int) -> Iterator[str]:
    if type(value_us) is not int or not MIN_WINDOW_SECONDS * SECOND_US <= value_us <= MAX_WINDOW_SECONDS * SECOND_US:
        seconds = (
            value_us // SECOND_US if isinstance(value_us, int) and not value_us % SECOND_US else value_us / SECOND_US
        )
        yield f"the {name} is {seconds:,} seconds; it must be 1 second to 31 days"
