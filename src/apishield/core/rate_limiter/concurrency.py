"""Concurrency: so many units at the same time, each held by a check until it is released or times out.

The state is who holds what since when. Slots that nobody releases free themselves, so that a crashed caller costs a time-out
and not a slot for ever.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from apishield.core.compiled import untracked
from apishield.core.model import Concurrency
from apishield.core.outcome import Outcome
from apishield.core.rate_limiter import states


@mypyc_attr(acyclic=True)
class State(states.State):
    """Units ``held`` by the checks in ``slots`` ((id, units) → when taken), which are ordered by when they were taken."""

    timeout_us: int = 0
    held: int = 0
    slots: dict[tuple[str, int], int]

    def __init__(self, rule: Concurrency) -> None:
        self.rule, self.requests, self.timeout_us = rule, rule.requests, rule.timeout_us
        self.taken = states.NEVER_SURE  # slots that timed out are freed first
        self.slots = {}

    def fits(self, now_us: int, cost: int) -> bool:
        """Whether ``cost`` units more may be held now."""
        self._free_timed_out(now_us)
        return self.held + cost <= self.requests or not cost

    def charge(self, now_us: int, cost: int, check_id: str = "") -> Outcome:
        """Lets ``check_id`` hold ``cost`` units, even past the limit, and says how the counter stands then."""
        if cost:
            self.release(check_id, cost)
            self.slots[check_id, cost] = now_us
            self.held += cost
            self.seen_us = now_us
        return self.look(now_us, 0, True)

    def release(self, check_id: str, cost: int) -> None:
        """Frees the ``cost`` units that ``check_id`` holds; nothing, where it has timed out or never held them."""
        if self.slots.pop((check_id, cost), None) is not None:
            self.held -= cost

    def look(self, now_us: int, cost: int, fits: bool) -> Outcome:
        """How the counter stands for a check that is not charged."""
        oldest_us = next(iter(self.slots.values())) if self.slots else 0
        newest_us = next(reversed(self.slots.values())) if self.slots else 0
        return outcome(self.requests, self.timeout_us, now_us, cost, fits, self.held, oldest_us, newest_us)

    def penalize(self, now_us: int, cost: int) -> None:
        """Does nothing: a refused check holds nothing."""

    def refund(self, now_us: int, charged_at_us: int, cost: int) -> None:
        """Does nothing: slots are given back by ``release``."""

    def adopt(self, rule: Concurrency, now_us: int) -> None:
        """Goes on under changed numbers: slots stay, a changed time-out counts from when they were taken."""
        self._free_timed_out(now_us)
        self.rule, self.requests, self.timeout_us = rule, rule.requests, rule.timeout_us

    def expires_at_us(self) -> int:
        """From when on this state says no more than none at all."""
        return self.seen_us + self.timeout_us if self.slots else 0

    def let_go(self) -> None:
        """Is not to be asked any more, and forgets who holds what."""
        self.rule = None
        self.slots, self.held = {}, 0

    def _free_timed_out(self, now_us: int) -> None:
        horizon_us = now_us - self.timeout_us
        while self.slots:
            (check_id, cost), taken_us = next(iter(self.slots.items()))
            if taken_us > horizon_us:
                return
            self.release(check_id, cost)


State = untracked(State)  # type: ignore[misc]


def outcome(
    requests: int,
    timeout_us: int,
    now_us: int,
    cost: int,
    fits: bool,
    held: int,
    oldest_us: int,
    newest_us: int,
) -> Outcome:
    """Says what ``held`` units, taken between ``oldest_us`` and ``newest_us``, mean for a check of ``cost``.

    A refused check may try again when the oldest slot times out; earlier, where one is released.
    """
    retry_after_us = 0 if fits else oldest_us + timeout_us - now_us if cost <= requests else None
    return Outcome(fits, requests - held, retry_after_us, newest_us + timeout_us - now_us if held else 0)
