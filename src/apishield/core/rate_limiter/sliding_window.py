"""Sliding window: so many units in *any* interval that is one window long, never one more.

The state is a log of charges in which those of one slot (a thousandth of the window, aligned to the epoch) are one entry,
filed at the slot's latest charge. So units leave late, by less than a slot, and never early: the limit holds in every
interval, and a check is refused at most 0.1 % of the window too soon. At most 1,002 entries of 12 bytes are alive, and never
more than there are units; each enters once and leaves once, so a check costs O(1) on average.

The slots are those of the exponential histogram of Datar, Gionis, Indyk and Motwani, "Maintaining stream statistics over
sliding windows" (2002), with equal widths and with an error that only ever refuses.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

from mypy_extensions import mypyc_attr

from apishield.core.compiled import untracked
from apishield.core.model import SlidingWindow
from apishield.core.outcome import Outcome
from apishield.core.rate_limiter import states

SLOTS: Final = 1000
COMPACT_AFTER: Final = 32  # entries that have left are dropped from the front so many at a time
MAX_ENTRY_UNITS: Final = (1 << 32) - 1  # of debts only; four times the largest limit refuses as well as more would
# To be multiplied by 1: a copy takes half as long as to make one. Unsigned, which Python appends in half the time of "q"; a
# long where that has 8 bytes, which is faster still than "Q".
_NO_TIMES: Final = array("L" if array("L").itemsize == 8 else "Q")
_ONE_UNIT: Final = array("I", [1])


@mypyc_attr(acyclic=True)
class State(states.State):
    """Units charged in the last window, oldest first.

    The youngest entry lies in ``last_us`` and ``last_cost``, and grows until its slot ends at ``slot_end_us``; the older
    ones lie in ``times`` and ``costs`` from index ``head`` on. Without ``costs`` each of them is one unit, as most are.
    ``taken`` is the sum of all. ``leaves_us`` is an instant before which none leaves. No clock goes before ``seen_us``: the
    last charge, or the instant at which an entry left that is gone.
    """

    window_us: int = 0
    leaves_us: int = states.NEVER_US
    last_us: int = 0
    last_cost: int = 0
    slot_end_us: int = 0
    head: int = 0
    times: array[int] | None = None
    costs: array[int] | None = None

    def __init__(self, rule: SlidingWindow) -> None:
        self.rule, self.requests, self.window_us = rule, rule.requests, rule.window_us

    def fits(self, now_us: int, cost: int) -> bool:
        """Whether ``cost`` units more are within the limit."""
        if now_us >= self.leaves_us:
            self._forget(now_us)
        return self.taken + cost <= self.requests or not cost

    def charge(self, now_us: int, cost: int, check_id: str = "") -> Outcome:
        """Counts ``cost`` units, even past the limit, and says how the counter stands then."""
        if not cost:
            return self.look(now_us, 0, True)
        if now_us >= self.leaves_us:
            self._forget(now_us)
        if now_us < self.slot_end_us:
            self.last_cost += cost
        else:
            self._open_slot(now_us, cost)
        self.last_us = self.seen_us = now_us
        self.taken = taken = self.taken + cost
        return Outcome(True, self.requests - taken, 0, self.window_us)

    def look(self, now_us: int, cost: int, fits: bool) -> Outcome:
        """How the counter stands for a check that is not charged."""
        if now_us >= self.leaves_us:
            self._forget(now_us)
        first_fit_us = 0 if fits else self._first_fit_us(cost)
        return outcome(self.requests, self.window_us, now_us, fits, self.taken, self.last_us, first_fit_us)

    def penalize(self, now_us: int, cost: int) -> None:
        """Counts a refused check in place of the oldest units, so that the window stays full for longer."""
        self.charge(now_us, min(cost, self.requests))
        while self.taken > self.requests:
            self._shorten_oldest(self.taken - self.requests)

    def refund(self, now_us: int, charged_at_us: int, cost: int) -> None:
        """Takes back ``cost`` units charged at ``charged_at_us``; nothing, once they have left."""
        self.fits(now_us, 0)
        width_us = slot_us(self.window_us)
        slot = charged_at_us // width_us
        times, costs = self.times, self.costs
        if self.last_us // width_us == slot:
            back = min(cost, self.last_cost)
            self.last_cost -= back
        elif times is None:
            return
        else:
            index = bisect_left(times, charged_at_us, self.head)
            if index == len(times) or times[index] // width_us != slot:
                return
            held = 1 if costs is None else costs[index]
            back = min(cost, held)
            if back == held:
                del times[index]
                if costs is not None:
                    del costs[index]
            elif costs is not None:
                costs[index] = held - back
            if self.head == len(times):
                self.times = self.costs = None
                self.head = 0
        self.taken -= back

    def adopt(self, rule: SlidingWindow, now_us: int) -> None:
        """Goes on under changed numbers: the entries stay, and those that now share a slot become one at its latest charge."""
        self.fits(now_us, 0)
        resized = rule.window_us != self.window_us
        self.rule, self.requests, self.window_us = rule, rule.requests, rule.window_us
        if not resized or not self.taken:
            return
        entries = [*self._older(), (self.last_us, self.last_cost)]
        self.times = self.costs = None
        self.head = self.last_cost = self.slot_end_us = 0
        self.leaves_us = states.NEVER_US
        for at_us, cost in entries:
            if at_us < self.slot_end_us:
                self.last_cost += cost
            else:
                self._open_slot(at_us, cost)
            self.last_us = at_us
        self.fits(now_us, 0)

    def expires_at_us(self) -> int:
        """From when on this state says no more than none at all."""
        return self.last_us + self.window_us

    def let_go(self) -> None:
        """Is not to be asked any more, and forgets what was charged."""
        self.rule = self.times = self.costs = None
        self.head = self.taken = self.last_cost = self.slot_end_us = 0
        self.leaves_us = states.NEVER_US

    def _open_slot(self, now_us: int, cost: int) -> None:
        """Begins a new youngest entry; the caller sets ``last_us``."""
        times, costs, last_cost = self.times, self.costs, self.last_cost
        if last_cost:
            if times is None:
                times = self.times = _NO_TIMES * 1
            if last_cost != 1 or costs is not None:
                if costs is None:
                    costs = self.costs = _ONE_UNIT * len(times)
                if last_cost > MAX_ENTRY_UNITS:
                    self.taken -= last_cost - MAX_ENTRY_UNITS
                    last_cost = MAX_ENTRY_UNITS
                costs.append(last_cost)
            times.append(self.last_us)
        elif times is None:
            self.leaves_us = now_us + self.window_us
        self.last_cost = cost
        width_us = slot_us(self.window_us)
        self.slot_end_us = now_us - now_us % width_us + width_us

    def _forget(self, now_us: int) -> None:
        """Lets go of the entries that are a window old."""
        window_us = self.window_us
        horizon_us = now_us - window_us
        if self.last_us <= horizon_us:
            self.times = self.costs = None
            self.head = self.taken = self.last_cost = 0
            self.leaves_us = states.NEVER_US
            self.seen_us = self.last_us + window_us
            return
        head, times, costs = self.head, self.times, self.costs
        if times is None:
            self.leaves_us = self.last_us + window_us
            return
        size, taken = len(times), self.taken
        oldest_us = left_us = times[head]
        while oldest_us <= horizon_us:
            taken -= 1 if costs is None else costs[head]
            head += 1
            left_us, oldest_us = oldest_us, times[head] if head < size else self.last_us
        if head > self.head:
            self.taken = taken
            self.seen_us = max(self.seen_us, left_us + window_us)
        self.leaves_us = oldest_us + window_us
        if head == size:
            self.times = self.costs = None
            head = 0
        elif head >= COMPACT_AFTER:
            del times[:head]
            if costs is not None:
                del costs[:head]
            head = 0
        self.head = head

    def _shorten_oldest(self, units: int) -> None:
        """Drops up to ``units`` of the oldest entry."""
        times, costs = self.times, self.costs
        if times is None:
            dropped = min(units, self.last_cost)
            self.last_cost -= dropped
        else:
            held = 1 if costs is None else costs[self.head]
            dropped = min(units, held)
            if dropped < held and costs is not None:
                costs[self.head] = held - dropped
            elif dropped == held:
                self.head += 1
                if self.head == len(times):
                    self.times = self.costs = None
                    self.head = 0
        self.taken -= dropped

    def _older(self) -> list[tuple[int, int]]:
        """The entries before the youngest, oldest first, as (instant, units)."""
        if self.times is None:
            return []
        times = self.times[self.head :]
        return list(zip(times, [1] * len(times) if self.costs is None else self.costs[self.head :], strict=True))

    def _first_fit_us(self, cost: int) -> int:
        """The instant at which the entry leaves that makes room for ``cost``; 0 where that never happens."""
        if cost > self.requests:
            return 0
        need = self.taken + cost - self.requests
        times, costs = self.times, self.costs
        if times is None:
            return self.last_us + self.window_us
        if costs is None:
            index = self.head + max(need, 1) - 1
            return (times[index] if index < len(times) else self.last_us) + self.window_us
        for index in range(self.head, len(times)):
            need -= costs[index]
            if need <= 0:
                return times[index] + self.window_us
        return self.last_us + self.window_us


State = untracked(State)  # type: ignore[misc]


def slot_us(window_us: int) -> int:
    """How wide the slots of a window are, whose charges are one entry."""
    return -(-window_us // SLOTS)


def outcome(
    requests: int, window_us: int, now_us: int, fits: bool, total: int, last_us: int, first_fit_us: int
) -> Outcome:
    """Says what ``total`` units in the last window mean.

    The youngest of them was charged at ``last_us``; a check that does not fit will at ``first_fit_us`` (0: never).
    """
    retry_after_us = 0 if fits else first_fit_us - now_us if first_fit_us else None
    reset_us = last_us + window_us - now_us if total else 0
    return Outcome(fits, requests - total, retry_after_us, reset_us)
