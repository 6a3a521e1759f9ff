"""Limits and verdicts: the values that the algorithms, the stores and the ways in share.

Owns: what a limit is, what a counter counts, what a store answers.
Does not own: who is asking (``records``), how a decision is rendered (``headers``), where state lies (``stores``).

All times are integers in microseconds since the Unix epoch (``_us``); costs and limits are integers up to 10⁹.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from apishield.core.outcome import Outcome

MAX_UNITS = 1_000_000_000
MIN_WINDOW_SECONDS = 1
MAX_WINDOW_SECONDS = 31 * 86_400
SECOND_US = 1_000_000


class Mode(StrEnum):
    """Whether a limit refuses, or only records what it would have refused."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class OnStoreFailure(StrEnum):
    """What a limit does while its store can't be reached."""

    LOCAL = "local"  # this node enforces its share of the limit
    ALLOW = "allow"
    DENY = "deny"


class FixedWindow(msgspec.Struct, frozen=True, tag_field="strategy", tag="fixed_window"):
    """``requests`` in each window aligned to the Unix epoch."""

    requests: int
    window_us: int

    @property
    def ceiling(self) -> int:
        """The most that can be used before something comes back."""
        return self.requests


class SlidingWindow(msgspec.Struct, frozen=True, tag_field="strategy", tag="sliding_window"):
    """``requests`` in any interval that is ``window_us`` long."""

    requests: int
    window_us: int

    @property
    def ceiling(self) -> int:
        """The most that can be used before something comes back."""
        return self.requests


class TokenBucket(msgspec.Struct, frozen=True, tag_field="strategy", tag="token_bucket"):
    """``requests`` each ``window_us`` on average, ``burst`` at once."""

    requests: int
    window_us: int
    burst: int

    @property
    def ceiling(self) -> int:
        """The most that can be used before something comes back: a full bucket."""
        return self.burst


class Concurrency(msgspec.Struct, frozen=True, tag_field="strategy", tag="concurrency"):
    """``requests`` at the same time; a slot that nobody releases frees itself after ``timeout_us``."""

    requests: int
    timeout_us: int

    @property
    def ceiling(self) -> int:
        """The most that can be used before something comes back."""
        return self.requests


class Quota(msgspec.Struct, frozen=True, tag_field="strategy", tag="quota"):
    """``requests`` in each calendar day or month of ``time_zone`` (an IANA name)."""

    requests: int
    period: Literal["day", "month"] = "month"
    time_zone: str = "UTC"

    @property
    def ceiling(self) -> int:
        """The most that can be used before something comes back."""
        return self.requests


Algorithm = FixedWindow | SlidingWindow | TokenBucket | Concurrency | Quota


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A named algorithm. ``id`` is kept by name over changes, so that changed numbers keep their state."""

    id: str
    name: str
    algorithm: Algorithm
    unit: str = "requests"
    mode: Mode = Mode.ENFORCE
    on_store_failure: OnStoreFailure = OnStoreFailure.LOCAL
    charge_refused: bool = False


class Counter(msgspec.Struct, frozen=True, gc=False):
    """One limit applied to one subject. ``key`` is made by ``core.counter_keys`` and names the state in every store.

    ``overflow_key`` names the counter that new anonymous subjects share where a store is full; ``None`` (subjects with
    a key) makes that a failure of the store instead.
    """

    key: str
    limit: Limit
    policy_id: str | None = None
    overflow_key: str | None = None


class ReadyCounters(tuple[Counter, ...]):
    """The counters of a subject that asks again and again, such as a key: made once, and passed to the store each time.

    A store may keep in ``found`` what it found by them.
    """

    found: Any = None


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What the store decided about one check: every enforced counter admitted and was charged, or none was.

    ``outcomes`` is parallel to the counters that were asked. ``now_us`` is the store's time at the decision. ``denied`` is
    whether it refuses because the store is gone and some limit denies then, whatever the counters say.
    """

    admitted: bool
    now_us: int
    outcomes: list[Outcome]
    degraded: bool = False
    denied: bool = False


REPEAT_SECONDS = 60


class Once(msgspec.Struct, frozen=True, gc=False):
    """Names a check that is decided once: who asks again under the same ``key`` within a minute gets the first verdict.

    ``question`` is a digest of what is asked, by which another question under the same name is told from a repeat.
    """

    key: str
    question: str


class Repeat(Verdict, frozen=True, gc=False, kw_only=True):
    """The verdict that an earlier check of the same name got. Nothing was charged for this one.

    ``decision_id``, ``question`` and ``counters``, to which the outcomes are parallel, are the earlier check's; these
    counters say which limits they apply, and their keys may be empty.
    """

    decision_id: str
    question: str
    counters: tuple[Counter, ...]
