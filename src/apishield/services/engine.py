"""The verdict: one check in, one decision out, in the order of the design; cheap steps first, one store call at the end.

Owns: the order of the steps, asking the store, the decision with its id and headers.
Does not own: the steps before the limits (``screening``), what is charged (``charging``), how counters decide
(``CounterStore``), how HTTP asks (``api.dataplane``).

``check`` answers at once where no step has to wait (every key known, counters in memory), and else something to await: a
caller that need not await does not pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import Final, Protocol

from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest, Denial
from apishield.core.decision_ids import DecisionIds
from apishield.core.model import SECOND_US, Counter, Once, Repeat, Verdict
from apishield.core.outcome import Outcome
from apishield.core.policies import Meter
from apishield.core.ports import Clock, CounterStore, Hold
from apishield.core.rendering import Rendered, render
from apishield.errors import PROBLEMS, StoreUnavailable
from apishield.later import Later
from apishield.services import charging, denials
from apishield.services.asked import Asked
from apishield.services.screening import UNKNOWN, Screening
from apishield.services.snapshot import Snapshot, TenantView
from apishield.services.turns import Turn

CHECKS_AT_ONCE: Final = 64
"""So many are best decided together: with more a check takes no less, and others are held up for longer."""

WORTH_TOGETHER: Final = 4
"""Fewer take less one by one: what it costs to take them a step at a time is borne by few."""

_NO_QUESTION: Final = CheckRequest()
_NOTHING: Final = Verdict(admitted=True, now_us=0, outcomes=[])


class Recorder(Protocol):
    """Takes note of every decision, for the ledger and the metrics. Must be quick and never raise."""

    def record(self, asked: Asked, decided: Decided, now_us: int) -> None:
        """Notes one decision about what was asked."""
        ...

    def record_shadow(
        self, tenant_id: str, counters: Sequence[Counter], outcomes: Sequence[Outcome], now_us: int
    ) -> None:
        """Notes what limits in shadow say of a check that was let through; ``outcomes`` are parallel to ``counters``."""
        ...


class Engine:
    """Decides checks. One per process; holds no state of its own but what came in this turn of the loop."""

    def __init__(
        self,
        snapshot: Snapshot,
        store: CounterStore,
        ids: DecisionIds,
        clock: Clock,
        recorder: Recorder,
        *,
        snapshot_max_age_us: int = 300 * SECOND_US,
        observe_store: Callable[[float], None] = lambda _seconds: None,
        draft_headers: bool = True,
        legacy_headers: bool = True,
    ) -> None:
        self._snapshot = snapshot
        self._screening = Screening(snapshot, clock, max_age_us=snapshot_max_age_us)
        self._store = store
        self._ids = ids
        self._clock = clock
        self._recorder = recorder
        self._observe_store = observe_store
        self._draft_headers = draft_headers
        self._legacy_headers = legacy_headers
        self._came: list[tuple[Asked, Verdict, Later[Decided]]] = []

    def check(self, view: TenantView, request: CheckRequest) -> Decided | Awaitable[Decided]:
        """Decides one check of the tenant that asks. Never raises: a refusal is a decision."""
        now_us = self._clock()
        asked = self._screening.screen(view, request, now_us)
        if asked is None:
            return self._check_after_catch_up(view, request)
        return self._decide(asked, now_us)

    def screen(self, view: TenantView, request: CheckRequest) -> Asked | None:
        """A check of the tenant that asks, for ``decide_all``; ``None`` where only the database could tell whose key it is."""
        return self._screening.screen(view, request, self._clock())

    def turn(self, view: TenantView, *, most_limits: int, knows_all: bool = False) -> Turn:
        """Begins a turn in which many checks of the tenant are decided by ``check_all``. It ends with the event loop's.

        ``most_limits`` is how many limits may be asked until it is full, ``knows_all`` whether a key that is unknown here is so
        everywhere.
        """
        return Turn(self._screening, view, self._clock(), most_limits=most_limits, knows_all=knows_all)

    def check_all(self, turn: Turn, requests: Iterable[CheckRequest]) -> list[Decided | Awaitable[Decided] | None]:
        """``check`` of ``requests``, in order, until the turn is full; what several have in common is found out once.

        ``None`` where only the database could tell whose key it is: ask again in a turn that begins once ``caught_up``.
        """
        screened: list[Asked | None] = []
        for request in requests:
            screened.append(turn.screen(request))
            if turn.is_full:
                break
        decided = iter(self.decide_all([asked for asked in screened if asked is not None]))
        return [None if asked is None else next(decided) for asked in screened]

    def decide(self, screened: Asked) -> Decided | Awaitable[Decided]:
        """The decision about a check that was screened; what it asks of the store goes out with ``send``."""
        return self._decide(screened, self._clock())

    def send(self) -> None:
        """Lets what was asked by ``decide`` go to the store."""
        self._store.send()

    def decide_all(self, screened: Sequence[Asked]) -> list[Decided | Awaitable[Decided]]:
        """The decisions about checks that were screened, in order.

        Each step is taken for all of them before the next one for any: what it needs is then in the processor's caches, and the
        whole takes two thirds of the time.
        """
        now_us = self._clock()
        found: list[Verdict | Decided | Awaitable[Decided]] = []
        for asked in screened:
            try:
                found.append(self._ask_store(asked, now_us))
            except Exception as error:  # noqa: BLE001  whoever asked this one is told; the others are not to pay for it
                found.append(Later.failed(error))
        self._store.send()
        answered = [(asked, each) for asked, each in zip(screened, found, strict=True) if isinstance(each, Verdict)]
        decided = iter(self._answer_all(answered))
        return [next(decided) if isinstance(each, Verdict) else each for each in found]

    async def caught_up(self, view: TenantView) -> TenantView:
        """The tenant with what was changed on any node until now; as it is known where the database can't be reached."""
        with contextlib.suppress(Exception):  # the feed's own loop tells of a database that can't be reached
            await self._snapshot.shared_catch_up()
        return self._snapshot.tenant(view.tenant.id) or view

    def refuse(self, view: TenantView, code: str, message: str) -> Decided:
        """A decision about a question that could not be read."""
        return self._refuse(Asked(view, _NO_QUESTION), Denial(code, message), self._clock())

    def new_request_id(self) -> str:
        """An id for a request that ends without a decision."""
        return "req_" + self._ids.make("", self._clock())[4:30]

    async def _check_after_catch_up(self, view: TenantView, request: CheckRequest) -> Decided:
        """A key that is well-formed but unknown may have been made on another node a moment ago: look once more."""
        view = await self.caught_up(view)
        now_us = self._clock()
        asked = self._screening.screen(view, request, now_us)
        if asked is None:
            asked = self._screening.screen_known(view, request, UNKNOWN, now_us)
        decided = self._decide(asked, now_us)
        return decided if isinstance(decided, Decided) else await decided

    def _decide(self, asked: Asked, now_us: int) -> Decided | Awaitable[Decided]:
        verdict = self._ask_store(asked, now_us)
        return self._answer(asked, verdict, verdict.now_us) if isinstance(verdict, Verdict) else verdict

    def _ask_store(self, asked: Asked, now_us: int) -> Verdict | Decided | Awaitable[Decided]:
        """The store's verdict where it is there at once; else the decision, where it needs none, or what it will be."""
        if asked.denial is not None:
            return self._refuse(asked, asked.denial, now_us)
        request = asked.request
        if request.check_id is not None:
            return self._decide_once(asked, request.check_id, now_us)
        if not asked.counters and not request.reserve:
            return self._answer(asked, _NOTHING, now_us)
        hold = self._hold(asked, now_us) if asked.takes_slots or request.reserve else None
        try:
            verdict = self._store.decide(asked.counters, charging.costs(asked), asked.check_id, hold)
        except StoreUnavailable:
            return self._refuse(asked, denials.STORE_GONE, now_us)
        return verdict if isinstance(verdict, Verdict) else self._answer_later(asked, verdict, now_us)

    def _hold(self, asked: Asked, now_us: int) -> Hold:
        """Has a record kept of the check under the id of its decision, which names its slots, too."""
        asked.held = True
        asked.check_id = self._ids.make(asked.view.tenant.id, now_us, held=True)
        asked.sequence = self._ids.sequence
        return charging.hold(asked)

    def _decide_once(self, asked: Asked, check_id: str, now_us: int) -> Decided | Awaitable[Decided]:
        """Decides a check that may be asked again; in one step the store finds the first decision, or makes this the first."""
        hold: Hold | None = None
        if asked.takes_slots or asked.request.reserve:
            hold = self._hold(asked, now_us)
        else:
            self._name(asked, now_us)
        once = charging.once(asked, check_id)
        try:
            verdict = self._store.decide_once(once, asked.counters, charging.costs(asked), asked.check_id, hold)
        except StoreUnavailable:
            return self._refuse(asked, denials.STORE_GONE, now_us)
        if isinstance(verdict, Verdict):
            return self._answer_once(asked, verdict, once)
        return self._answer_later(asked, verdict, now_us, once)

    # --- the answer ---------------------------------------------------------------------------------------------------

    def _answer_later(
        self, asked: Asked, pending: Awaitable[Verdict], now_us: int, once: Once | None = None
    ) -> Later[Decided]:
        asked_at = perf_counter()

        def answer(done: Later[Verdict]) -> Decided | Later[Decided]:
            try:
                verdict = done.result()
            except StoreUnavailable:
                return self._refuse(asked, denials.STORE_GONE, now_us)
            self._observe_store(perf_counter() - asked_at)
            if once is not None:
                return self._answer_once(asked, verdict, once)
            return self._answer_soon(asked, verdict)

        return Later.of(pending).then(answer)

    def _answer_soon(self, asked: Asked, verdict: Verdict) -> Later[Decided]:
        """The decision, which is made with those of all other verdicts that come in this turn."""
        decided: Later[Decided] = Later()
        self._came.append((asked, verdict, decided))
        if len(self._came) == 1:
            asyncio.get_running_loop().call_soon(self._answer_those_that_came)
        return decided

    def _answer_those_that_came(self) -> None:
        came, self._came = self._came, []
        for first in range(0, len(came), CHECKS_AT_ONCE):
            some = came[first : first + CHECKS_AT_ONCE]
            try:
                decided = self._answer_all([(asked, verdict) for asked, verdict, _ in some])
            except Exception as error:  # noqa: BLE001  whoever waits is told
                for _, _, later in some:
                    later.fail(error)
            else:
                for (_, _, later), decision in zip(some, decided, strict=True):
                    later.resolve(decision)

    def _answer_once(self, asked: Asked, verdict: Verdict, once: Once) -> Decided:
        """The decision of a check with a ``check_id``: where it is a repeat, the earlier one, which was noted then."""
        if not isinstance(verdict, Repeat):
            return self._answer(asked, verdict, verdict.now_us)
        if verdict.question != once.question:
            asked.check_id, asked.held = "", False
            return self._refuse(asked, denials.OTHER_QUESTION, verdict.now_us)
        asked.check_id = verdict.decision_id
        if verdict.denied:
            rendered = Rendered(denials.STORE_GONE.code, denials.STORE_GONE.message, verdict.now_us)
        else:
            meters = [Meter(counter.limit, policy_id=counter.policy_id) for counter in verdict.counters]
            rendered = render(meters, verdict)
        asked.degraded = verdict.degraded
        return self._conclude(asked, rendered, verdict.now_us, noted=False)

    def _refuse(self, asked: Asked, denial: Denial, now_us: int) -> Decided:
        return self._conclude(asked, Rendered(denial.code, denial.message, now_us), now_us)

    def _answer(self, asked: Asked, verdict: Verdict, now_us: int) -> Decided:
        return self._conclude(asked, self._rendered(asked, verdict, now_us), now_us)

    def _answer_all(self, answered: Sequence[tuple[Asked, Verdict]]) -> list[Decided]:
        """``_answer`` of each, a step at a time."""
        if len(answered) < WORTH_TOGETHER:
            return [self._answer(asked, verdict, verdict.now_us) for asked, verdict in answered]
        rendered = [self._rendered(asked, verdict, verdict.now_us) for asked, verdict in answered]
        for asked, verdict in answered:
            self._name(asked, verdict.now_us)
        decided = [self._decided(asked, words) for (asked, _), words in zip(answered, rendered, strict=True)]
        for (asked, verdict), decision in zip(answered, decided, strict=True):
            self._recorder.record(asked, decision, verdict.now_us)
        return decided

    def _conclude(self, asked: Asked, rendered: Rendered, now_us: int, *, noted: bool = True) -> Decided:
        """The decision; ``noted`` unless it was before."""
        self._name(asked, now_us)
        decided = self._decided(asked, rendered)
        if noted:
            self._recorder.record(asked, decided, now_us)
        return decided

    def _rendered(self, asked: Asked, verdict: Verdict, now_us: int) -> Rendered:
        asked.degraded = asked.degraded or verdict.degraded or verdict.denied
        if verdict.denied:
            return Rendered(denials.STORE_GONE.code, denials.STORE_GONE.message, now_us)
        rendered = render(asked.meters, verdict)
        if rendered.shadow and verdict.admitted and not asked.peek:
            self._recorder.record_shadow(asked.view.tenant.id, asked.counters, verdict.outcomes, now_us)
        return rendered

    def _name(self, asked: Asked, now_us: int) -> None:
        """Gives the decision its id, unless it had to have one before."""
        if not asked.check_id:
            asked.check_id = self._ids.make(asked.view.tenant.id, now_us)
            asked.sequence = self._ids.sequence

    def _decided(self, asked: Asked, rendered: Rendered) -> Decided:
        code = rendered.code
        return Decided(
            200 if code == "ok" else PROBLEMS[code].status,
            asked.check_id,
            asked.view.whose if asked.entry is None else asked.entry.whose,
            rendered,
            asked.degraded,
            self._draft_headers,
            self._legacy_headers,
        )
