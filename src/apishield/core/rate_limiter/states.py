"""What a counter remembers, seen from outside: the class that each algorithm's ``State`` is of."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any, Final

from mypy_extensions import mypyc_attr

from apishield.core.compiled import is_compiled
from apishield.core.outcome import Outcome

# More than any limit and later than any clock, and still no more than a machine's word holds once compiled.
NEVER_US: Final = 1 << 61
NEVER_SURE: Final = 1 << 61


@mypyc_attr(acyclic=True)  # ABC as a base would rule that out; its metaclass does not
class State(metaclass=ABCMeta):
    """What one counter remembers.

    ``rule`` is the algorithm it was last asked under, ``requests`` its limit. Time never goes behind ``seen_us``: callers pass
    a ``now_us`` of at least that, and ``adopt`` another rule before they ask under it. At ``seen_us`` and later no more than
    ``taken`` of ``requests`` are in use: what they leave is sure to fit, so that most checks need not call ``fits``. More may
    fit; a state that can't tell takes all there is.
    """

    rule: Any
    requests: int = 0
    seen_us: int = 0
    taken: int = 0

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    @abstractmethod
    def fits(self, now_us: int, cost: int) -> bool:
        """Whether ``cost`` units more are within the limit; always where ``cost`` is 0."""

    @abstractmethod
    def charge(self, now_us: int, cost: int, check_id: str = "") -> Outcome:
        """Counts ``cost`` units, even past the limit, and says how the counter stands then."""

    @abstractmethod
    def look(self, now_us: int, cost: int, fits: bool) -> Outcome:
        """How the counter stands for a check of ``cost`` that is not charged; ``fits`` is what ``fits`` said."""

    @abstractmethod
    def penalize(self, now_us: int, cost: int) -> None:
        """Counts a check that was refused, without ever going over the limit."""

    @abstractmethod
    def refund(self, now_us: int, charged_at_us: int, cost: int) -> None:
        """Takes back ``cost`` units charged at ``charged_at_us``, as far as they still count."""

    @abstractmethod
    def adopt(self, rule: Any, now_us: int) -> None:
        """Goes on under changed numbers of the same algorithm."""

    @abstractmethod
    def expires_at_us(self) -> int:
        """From when on this state says no more than none at all."""

    def let_go(self) -> None:
        """Is not to be asked any more, save under a rule that it adopts: who found it before may hold it for long.

        It keeps nothing then that takes much room.
        """
        self.rule = None


COMPILED: Final = is_compiled(State)
