"""From what a query asks for to the buckets that answer it: instants, periods, segments of rollups, steps of a chart.

Owns: how ``from``, ``to`` and a time zone are read, which rollups cover a period, where the steps of a time series begin.
Does not own: what is in the rollups. Rollups are kept by UTC; of those that lie across two steps of another zone, one part
is moved.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from apishield.analytics.steps import DAY_S, HOUR_S, MINUTE_S, SECOND_US, Step, ceil, floor

MAX_POINTS: Final = 1_000
MINUTE_DAYS: Final = 7
HOUR_DAYS: Final = 90

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LAST_US: Final = (datetime(2200, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_RELATIVE = re.compile(r"now(?:([+-])(\d{1,9})([smhdw]))?", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UNITS_S: Final = {"s": 1, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}


class Period(NamedTuple):
    """The time from ``from_us`` up to, and without, ``to_us``, in microseconds since the epoch."""

    from_us: int
    to_us: int

    def whole_minutes(self) -> Period:
        """The minutes that it touches: what rollups can tell of it. An empty period stays empty."""
        if self.to_us <= self.from_us:
            return Period(self.from_us, self.from_us)
        from_s, to_s = floor(self.from_us // SECOND_US, Step.MINUTE), ceil(-(-self.to_us // SECOND_US), Step.MINUTE)
        return Period(from_s * SECOND_US, to_s * SECOND_US)


class Segment(NamedTuple):
    """Buckets of one step that start at ``start_s`` or later and before ``end_s``, in epoch seconds."""

    step: Step
    start_s: int
    end_s: int


class Run(NamedTuple):
    """Steps of a chart that are equally long: the first of them is number ``first`` and begins at ``start_s``."""

    start_s: int
    seconds: int
    first: int


class Horizon(NamedTuple):
    """What is still there at ``now_s``: minutes and hours that start at these instants or later. Days are kept."""

    now_s: int
    minutes_from_s: int
    hours_from_s: int

    @classmethod
    def at(cls, now_us: int, minute_days: int = MINUTE_DAYS, hour_days: int = HOUR_DAYS) -> Horizon:
        """What is left where minutes and hours are deleted once they are so many days old.

        It begins with the first whole bucket of the next longer step, whose row would otherwise tell more than its parts.
        Minutes are of use no longer than hours.
        """
        now_s = now_us // SECOND_US
        hours_from_s = ceil(now_s - hour_days * DAY_S, Step.DAY)
        return cls(now_s, max(hours_from_s, ceil(now_s - minute_days * DAY_S, Step.HOUR)), hours_from_s)

    def finest(self, instant_s: int) -> Step:
        """The shortest step that buckets around ``instant_s`` are still kept at."""
        if instant_s >= self.minutes_from_s:
            return Step.MINUTE
        return Step.HOUR if instant_s >= self.hours_from_s else Step.DAY


def parse_instant(text: str, now_us: int, zone: ZoneInfo | None = None) -> int:
    """The instant that ``text`` names, in epoch microseconds.

    ``now``, ``now-24h`` (``s m h d w``), RFC 3339 (``2026-11-23T10:00:00Z``) or a date, which is its midnight in ``zone``
    (UTC where there is none). Raises ``ValueError``, whose message names the value and the fix.
    """
    instant_us = _relative(text, now_us) if text.startswith("now") else _absolute(text, zone)
    if not 0 <= instant_us <= _LAST_US:
        raise ValueError(f"{_shown(text)} lies before 1970 or after 2200; give an instant in between.")
    return instant_us


def parse_period(from_text: str | None, to_text: str | None, now_us: int, zone: ZoneInfo | None = None) -> Period:
    """The period between two instants; by default the 24 hours up to now. Raises ``ValueError``, also for one that ends
    before it begins.
    """
    to_us = parse_instant("now" if to_text is None else to_text, now_us, zone)
    from_us = to_us - DAY_S * SECOND_US if from_text is None else parse_instant(from_text, now_us, zone)
    if from_us > to_us:
        raise ValueError(
            f"from ({_shown(from_text or 'now-24h')}) lies after to ({_shown(to_text or 'now')}); exchange them."
        )
    return Period(max(0, from_us), to_us)


def parse_zone(name: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises ``ValueError``, whose message names the value and the fix."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # an unknown name, a folder of the database, a path
        raise ValueError(f"{_shown(name)} is no time zone; give an IANA name such as Europe/Berlin or UTC.") from None


def previous(period: Period) -> Period:
    """The period of the same length right before."""
    return Period(max(0, 2 * period.from_us - period.to_us), period.from_us)


def segments(from_us: int, to_us: int, horizon: Horizon | None = None, coarsest: Step = Step.DAY) -> list[Segment]:
    """The fewest buckets that hold the minutes from ``from_us`` to ``to_us`` exactly: whole days inside, hours and then
    minutes at the edges. None is longer than ``coarsest``, unless only longer ones are kept.

    With a ``horizon`` an edge among deleted buckets is moved outwards to the shortest ones that are kept (see
    ``resolution``), and a period that reaches the present takes the present day whole, as nothing lies behind.
    """
    start_s, end_s = _edges(from_us, to_us, horizon)
    if horizon is None or start_s >= horizon.minutes_from_s or coarsest is Step.DAY:
        return _cover(start_s, end_s, Step.MINUTE, coarsest)  # shorter buckets only at its edges, which are kept
    cuts = [start_s, *(min(max(start_s, cut), end_s) for cut in (horizon.hours_from_s, horizon.minutes_from_s)), end_s]
    parts = zip((Step.DAY, Step.HOUR, Step.MINUTE), cuts, cuts[1:], strict=False)
    return _joined(
        segment for finest, start, end in parts for segment in _cover(start, end, finest, _longer(finest, coarsest))
    )


def moves(parts: Sequence[Segment], starts_s: Sequence[int], horizon: Horizon | None = None) -> list[Segment]:
    """The shorter buckets within ``parts`` that a chart whose steps begin at ``starts_s`` moves from one step to another.

    A bucket counts in the step that holds its middle (see ``place``). Where a start lies within, the shorter buckets on the
    side of it that has not the middle are moved out of that step into their own; they are hours of days and minutes of hours,
    as long as those are kept. As a bucket is the sum of the shorter ones in it, each of these has then counted in its own
    step, but only few of them were read: of a day of Asia/Kolkata one day, five hours and thirty minutes.
    """
    found: list[Segment] = []
    kept_from_s = 0
    for step, shorter, gone_until_s in (
        (Step.DAY, Step.HOUR, horizon.hours_from_s if horizon else 0),
        (Step.HOUR, Step.MINUTE, horizon.minutes_from_s if horizon else 0),
    ):
        kept_from_s = max(kept_from_s, gone_until_s)
        cut = {
            floor(start_s, step)
            for start_s in starts_s
            if start_s % step.seconds and any(_holds(part, start_s, step) for part in parts)
        }
        for bucket_s in sorted(cut):
            if bucket_s >= kept_from_s:
                found += _moved(bucket_s, step, shorter, starts_s)
    return found


def resolution(from_us: int, to_us: int, horizon: Horizon) -> Step:
    """How exactly the edges of a period are met: ``minute``, or longer where the minutes around an edge are deleted."""
    whole = Period(from_us, to_us).whole_minutes()
    start_s, end_s = whole.from_us // SECOND_US, whole.to_us // SECOND_US
    met = Step.MINUTE
    for edge_s in (start_s, min(end_s, horizon.now_s)):
        finest = horizon.finest(edge_s)
        if edge_s % finest.seconds:
            met = _longer(met, finest)
    return met


def steps(from_us: int, to_us: int, step: Step, zone: ZoneInfo | None = None, most: int = MAX_POINTS) -> list[int]:
    """The starts, in epoch seconds, of the steps of ``zone``'s clocks that touch the period; each ends where the next begins.

    A day has 23 to 25 hours where clocks change. Raises ``ValueError`` where they are more than ``most``.
    """
    whole = Period(from_us, to_us).whole_minutes()
    start_s, end_s = whole.from_us // SECOND_US, whole.to_us // SECOND_US
    if (end_s - start_s) // step.seconds > most + 1:
        raise _too_many(from_us, to_us, step, most)
    if start_s >= end_s:
        return []
    if step is Step.DAY:
        starts = _days(start_s, end_s, zone or ZoneInfo("UTC"))
    elif step is Step.HOUR:
        starts = _hours(start_s, end_s, zone or ZoneInfo("UTC"))
    else:
        starts = list(range(start_s, end_s, MINUTE_S))
    if len(starts) > most:
        raise _too_many(from_us, to_us, step, most)
    return starts


def step_for(from_us: int, to_us: int, horizon: Horizon, most: int = MAX_POINTS) -> Step:
    """The shortest step that makes at most ``most`` points and is still kept throughout the period."""
    length_s = (to_us - from_us) // SECOND_US
    fits = next((step for step in Step if length_s // step.seconds + 2 <= most), Step.DAY)
    return kept_step(fits, from_us, horizon)


def kept_step(step: Step, from_us: int, horizon: Horizon) -> Step:
    """``step``, or the shortest that is still kept at ``from_us`` where that is longer: what a time series can tell apart."""
    return _longer(step, horizon.finest(from_us // SECOND_US))


def runs(starts_s: Sequence[int]) -> list[Run]:
    """The steps that begin at ``starts_s``, all but the last, whose end they do not tell; few, as clocks seldom change."""
    found: list[Run] = []
    for number, (start_s, next_s) in enumerate(pairwise(starts_s)):
        if not found or found[-1].seconds != next_s - start_s:
            found.append(Run(start_s, next_s - start_s, number))
    return found


def place(starts_s: Sequence[int], bucket_s: int, step: Step) -> int:
    """In which of the steps that begin at ``starts_s`` a bucket counts: where its middle lies, else in the nearest one."""
    return max(0, bisect_right(starts_s, bucket_s + step.seconds // 2) - 1)


# --- instants -------------------------------------------------------------------------------------------------------------


def _relative(text: str, now_us: int) -> int:
    found = _RELATIVE.fullmatch(text)
    if found is None:
        raise _unreadable(text)
    sign, number, unit = found.groups()
    if sign is None:
        return now_us
    away_us = int(number) * _UNITS_S[unit] * SECOND_US
    return now_us + away_us if sign == "+" else now_us - away_us


def _absolute(text: str, zone: ZoneInfo | None) -> int:
    try:
        if _DATE.fullmatch(text) is not None:
            return (datetime.combine(date.fromisoformat(text), time(), zone or UTC) - _EPOCH) // _MICROSECOND
        if _INSTANT.fullmatch(text) is not None:
            return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        pass  # the look of an instant, and the 31st of a month that has 30 days
    raise _unreadable(text)


def _unreadable(text: str) -> ValueError:
    hint = " A + in a URL is written %2B." if " " in text else ""
    return ValueError(
        f"{_shown(text)} is no instant; give RFC 3339 with an offset (2026-11-23T10:00:00Z), a date (2026-11-23), now, "
        f"or now-24h with one of s, m, h, d, w.{hint}"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


# --- segments -------------------------------------------------------------------------------------------------------------


def _edges(from_us: int, to_us: int, horizon: Horizon | None) -> tuple[int, int]:
    """Start and end in whole minutes, moved outwards to what is kept."""
    whole = Period(from_us, to_us).whole_minutes()
    start_s, end_s = whole.from_us // SECOND_US, whole.to_us // SECOND_US
    if horizon is None or start_s >= end_s:
        return start_s, end_s
    start_s = floor(start_s, horizon.finest(start_s))
    end_s = ceil(end_s, Step.DAY if end_s >= horizon.now_s else horizon.finest(end_s))
    return start_s, end_s


def _cover(start_s: int, end_s: int, finest: Step, coarsest: Step) -> list[Segment]:
    """The fewest buckets from ``finest`` to ``coarsest`` between two instants on borders of ``finest``."""
    if start_s >= end_s:
        return []
    shorter = [step for step in Step if finest.seconds <= step.seconds <= coarsest.seconds]
    longest = shorter.pop()
    inner_start_s, inner_end_s = ceil(start_s, longest), floor(end_s, longest)
    if not shorter:
        return [Segment(longest, start_s, end_s)]
    if inner_start_s >= inner_end_s:
        return _cover(start_s, end_s, finest, shorter[-1])
    return [
        *_cover(start_s, inner_start_s, finest, shorter[-1]),
        Segment(longest, inner_start_s, inner_end_s),
        *_cover(inner_end_s, end_s, finest, shorter[-1]),
    ]


def _holds(part: Segment, instant_s: int, step: Step) -> bool:
    """Whether the bucket of ``step`` around an instant lies within ``part``, as one of its own or of its shorter ones."""
    return part.step.seconds >= step.seconds and part.start_s <= instant_s < part.end_s


def _moved(bucket_s: int, step: Step, shorter: Step, starts_s: Sequence[int]) -> list[Segment]:
    """The ``shorter`` buckets in one of ``step`` that count elsewhere than it does."""
    end_s, half_s = bucket_s + step.seconds, shorter.seconds // 2
    first, last = bisect_right(starts_s, bucket_s), bisect_left(starts_s, end_s)
    cuts = [bucket_s, *(ceil(start_s - half_s, shorter) for start_s in starts_s[first:last]), end_s]
    here = place(starts_s, bucket_s, step)
    return [
        Segment(shorter, from_s, to_s)
        for from_s, to_s in pairwise(cuts)
        if from_s < to_s and place(starts_s, from_s, shorter) != here
    ]


def _joined(parts: Iterable[Segment]) -> list[Segment]:
    """``parts`` in order, those of one step that touch made one."""
    joined: list[Segment] = []
    for part in parts:
        if joined and joined[-1].step is part.step and joined[-1].end_s == part.start_s:
            joined[-1] = joined[-1]._replace(end_s=part.end_s)
        else:
            joined.append(part)
    return joined


def _longer(one: Step, other: Step) -> Step:
    return one if one.seconds >= other.seconds else other


# --- steps of a zone's clocks ---------------------------------------------------------------------------------------------


def _days(start_s: int, end_s: int, zone: ZoneInfo) -> list[int]:
    """Midnights; where clocks leave midnight out, the day begins at the first instant after it."""
    starts: list[int] = []
    day = datetime.fromtimestamp(start_s, zone).date()
    while (begin_s := _seconds(datetime.combine(day, time(), zone))) < end_s:
        if not starts or begin_s > starts[-1]:  # a day that a zone skipped (Apia, 2011-12-30) has no step
            starts.append(begin_s)
        day += timedelta(days=1)
    return starts


def _hours(start_s: int, end_s: int, zone: ZoneInfo) -> list[int]:
    """Full hours of the clock; where clocks change by half an hour (Lord Howe) one step has an hour and a half."""
    starts = [start_s - _past_hour(start_s, zone)]
    while (following_s := starts[-1] + HOUR_S) < end_s:
        past_s = _past_hour(following_s, zone)
        if past_s:
            following_s += HOUR_S - past_s
        if following_s >= end_s:
            break
        starts.append(following_s)
    return starts


def _past_hour(instant_s: int, zone: ZoneInfo) -> int:
    """How many seconds ago the clocks of ``zone`` showed a full hour."""
    offset = datetime.fromtimestamp(instant_s, zone).utcoffset() or timedelta()
    return (instant_s + round(offset.total_seconds())) % HOUR_S


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _too_many(from_us: int, to_us: int, step: Step, most: int) -> ValueError:
    days = max(1, (to_us - from_us) // (DAY_S * SECOND_US))
    return ValueError(
        f"{step} makes more than {most:,} points of this period (about {days:,} days); take a longer step or a shorter period."
    )
