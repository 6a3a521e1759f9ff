"""The three lengths of time that rollups are kept at, and where their buckets begin."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

SECOND_US: Final = 1_000_000
MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
WEEK_S: Final = 7 * DAY_S


class Step(StrEnum):
    """A length of time. Buckets of it begin at its multiples since the Unix epoch, so at whole minutes, hours, days of UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """How long it is."""
        return _SECONDS[self]

    @property
    def around(self) -> Step:
        """The next longer one, whose buckets are sums of this one's; of days, their own."""
        return _AROUND[self]


_SECONDS: Final = {Step.MINUTE: MINUTE_S, Step.HOUR: HOUR_S, Step.DAY: DAY_S}
_AROUND: Final = {Step.MINUTE: Step.HOUR, Step.HOUR: Step.DAY, Step.DAY: Step.DAY}


def floor(instant_s: int, step: Step) -> int:
    """The start of the bucket that holds ``instant_s``, both in epoch seconds."""
    return instant_s - instant_s % _SECONDS[step]


def ceil(instant_s: int, step: Step) -> int:
    """The first start of a bucket at ``instant_s`` or after it, both in epoch seconds."""
    return instant_s + -instant_s % _SECONDS[step]
