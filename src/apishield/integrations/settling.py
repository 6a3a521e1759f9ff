"""Decisions whose cost is an estimate, which the app settles once it knows better.

The true cost goes out with the report of the response; what is settled after that, such as the tokens of a streamed answer,
goes out in a report of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from apishield.client.models import Cost, Report
from apishield.core.decision import Decision
from apishield.core.model import MAX_UNITS
from apishield.errors import ConfigurationError

Tell = Callable[[Report], None]


class Settlement:
    """What a request cost in the end, and the report that says so."""

    __slots__ = ("_cost", "_report", "_tell", "is_reserved")

    def __init__(self, *, is_reserved: bool) -> None:
        self.is_reserved = is_reserved
        self._cost: int | dict[str, int] | None = None
        self._report: Report | None = None
        self._tell: Tell | None = None

    def settle(self, cost: Cost) -> None:
        """Notes what it cost."""
        self._cost = cost if isinstance(cost, int) else dict(cost)
        if self._report is not None and self._tell is not None:
            self._tell(replace(self._report, cost=self._cost))

    def go_with(self, report: Report, tell: Tell) -> Report:
        """``report`` with what is known of the cost; what is settled from now on is told by ``tell``."""
        self._report, self._tell = report, tell
        return report if self._cost is None else replace(report, cost=self._cost)


class ReservedDecision(Decision, frozen=True, kw_only=True, gc=True):
    """The decision about a request under the option ``reserve``."""

    settlement: Settlement

    def settle(self, cost: Cost) -> None:
        """Makes ``cost`` count instead of what was reserved; units that it does not name stay as they are.

        The last call before the end of the response counts, or a single one after it. Does nothing where nothing was reserved
        because the service could not be asked. Raises ``ConfigurationError`` for what can be no cost, and where the option
        did not hold for this request.
        """
        check_cost(cost)
        if not self.decision_id:
            return
        if not self.settlement.is_reserved:
            raise ConfigurationError("This request reserved nothing: the option reserve was not true for it.")
        self.settlement.settle(cost)


async def settleable(pending: Awaitable[Decision], *, is_reserved: bool) -> Decision:
    """The decision that is awaited, so that the app can settle it."""
    decision = await pending
    fields = {name: getattr(decision, name) for name in Decision.__struct_fields__}
    return ReservedDecision(**fields, settlement=Settlement(is_reserved=is_reserved))


def check_cost(cost: object) -> None:
    """Raises ``ConfigurationError`` for what can be no cost."""
    units = cost.values() if isinstance(cost, Mapping) else (cost,)
    for count in units:
        if type(count) is not int or not 0 <= count <= MAX_UNITS:
            raise ConfigurationError(
                f"cost is {cost!r}; give an integer from 0 to {MAX_UNITS}, or such integers by unit."
            )
