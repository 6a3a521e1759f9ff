"""Without the store a quota goes on from what the ledger knows, and what was used meanwhile is counted once."""

from __future__ import annotations

from apishield.core.model import Quota
from apishield.stores.failover import FailoverStore
from apishield.stores.memory import MemoryStore
from tests.support.clock import ManualClock
from tests.support.failing_store import Ledger, Primary, admitted, ask, counter, no_pauses, primary, turns

__all__ = ["no_pauses", "primary"]


async def test_a_quota_goes_on_from_what_the_ledger_knows(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    for used, expected in [(0, 50), (70, 30), (100, 0), (120, 0)]:
        store = FailoverStore(primary, clock, Ledger(used), live_nodes=lambda: 2)
        assert await admitted(store, counter(Quota(100))) == expected
        await store.close()


async def test_a_quota_whose_ledger_hangs_too_counts_its_share(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    ledger = Ledger(0)
    ledger.is_slow = True
    store = FailoverStore(primary, clock, ledger, live_nodes=lambda: 2)
    assert await admitted(store, counter(Quota(100))) == 50
    await store.close()


async def test_a_store_that_lost_its_state_is_not_charged_twice_for_what_was_admitted_without_it(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    primary.is_gone = True
    store = FailoverStore(primary, clock, ledger)
    assert await admitted(store, counter(Quota(100)), checks=20) == 20
    assert ledger.noted == []  # the store is seeded with 70, and then charged 20
    primary.inner = MemoryStore(clock, ledger)
    primary.is_gone = False
    await turns()
    assert (await ask(store, counter(Quota(100)), cost=0)).outcomes[0].remaining == 10
    await store.close()


async def test_a_quota_that_was_overdrawn_stays_so_without_the_store(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock, Ledger(901))
    outcome = (await ask(store, counter(Quota(100)))).outcomes[0]
    assert (outcome.admitted, outcome.remaining) == (False, -801)
    await store.close()


async def test_quotas_that_the_ledger_of_events_keeps_are_not_charged_on_healing(
    primary: Primary, clock: ManualClock
) -> None:
    ledger, kept, other, healed = Ledger(70), counter(Quota(100)), counter(Quota(100), "b"), []
    primary.is_gone = True
    store = FailoverStore(
        primary,
        clock,
        ledger,
        is_kept=lambda asked: asked.key == kept.key,
        on_healed=lambda: healed.append(store.is_degraded),
    )
    assert await admitted(store, kept, other, checks=20) == 20
    ledger.used += 20  # the events of what was admitted arrive
    primary.inner = MemoryStore(clock, ledger)
    primary.is_gone = False
    await turns()
    assert [outcome.remaining for outcome in (await ask(store, kept, cost=0)).outcomes] == [10]
    assert healed == [False]
    await store.close()


async def test_a_node_that_ends_notes_no_use_that_the_ledger_of_events_keeps(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    primary.is_gone = True
    store = FailoverStore(primary, clock, ledger, is_kept=lambda asked: True)
    assert await admitted(store, counter(Quota(100)), checks=20) == 20
    await store.close()
    assert ledger.noted == []


async def test_a_node_that_ends_without_its_store_leaves_the_use_of_quotas_to_the_ledger(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    primary.is_gone = True
    store = FailoverStore(primary, clock, ledger)
    assert await admitted(store, counter(Quota(100)), checks=20) == 20
    ledger.used = 75  # another node left before
    await store.close()
    assert ledger.noted == [95]


async def test_a_quota_is_learned_again_at_each_failure(primary: Primary, clock: ManualClock) -> None:
    ledger = Ledger(70)
    store = FailoverStore(primary, clock, ledger, live_nodes=lambda: 2)
    quota = counter(Quota(100))
    for used, expected in [(70, 30), (85, 15), (40, 50)]:
        ledger.used, primary.is_gone = used, True
        assert await admitted(store, quota) == expected
        primary.is_gone = False
        await turns()
        clock.advance(3)  # what was learned is old
    await store.close()


async def test_a_quota_is_not_learned_again_at_each_failure_within_two_seconds(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    store = FailoverStore(primary, clock, ledger, is_kept=lambda asked: True)
    for expected in (10, 10, 10, 0):  # it goes on from what was learned, and from what was admitted since
        primary.is_gone = True
        assert await admitted(store, counter(Quota(100)), checks=10) == expected
        primary.is_gone = False
        await turns()
    assert ledger.asked == 1
    await store.close()
