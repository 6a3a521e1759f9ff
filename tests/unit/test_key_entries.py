"""A change of a customer costs the same however many keys it has, and yet acts on all of them at once."""

from __future__ import annotations

import msgspec

from apishield.core.model import SECOND_US, Limit, SlidingWindow
from apishield.core.ports import Change, SnapshotRows
from apishield.core.records import Customer, Environment, Key, Tenant
from apishield.services.key_entries import CustomerEntry, KeyEntry
from apishield.services.snapshot import Snapshot


def _limits(requests: int, count: int = 1) -> tuple[Limit, ...]:
    window = SlidingWindow(requests, 60 * SECOND_US)
    return tuple(Limit(id=f"lim_{number}", name=f"l{number}", algorithm=window) for number in range(count))


def _customer(requests: int, count: int = 1) -> Customer:
    return Customer(
        id="cus", tenant_id="ten", name="c", rate_limits=_limits(requests, count), created_at_us=0, updated_at_us=0
    )


def _key(number: int, **more: object) -> Key:
    fields = {"name": "k", "hint": "", "customer_id": "cus", "rate_limits": (), "quotas": (), **more}
    return Key(id=f"key_{number}", tenant_id="ten", created_at_us=0, updated_at_us=0, **fields)  # type: ignore[arg-type]


class _Feed:
    """A source whose rows and changes the test sets."""

    def __init__(self, rows: SnapshotRows) -> None:
        self.rows = rows
        self.changes: list[Change] = []

    async def load(self) -> SnapshotRows:
        return self.rows

    async def changes_after(self, sequence: int) -> list[Change]:
        return self.changes

    async def load_objects(self, changes: object) -> SnapshotRows:
        return self.rows


async def test_a_change_of_a_customer_makes_none_of_its_keys_anew() -> None:
    tenant = Tenant(id="ten", name="t", plan="starter", created_at_us=0, updated_at_us=0)
    rows = SnapshotRows(sequence=1, tenants=[tenant], customers=[_customer(5)], keys=[_key(n) for n in range(3)])
    feed = _Feed(rows)
    snapshot = Snapshot(feed, lambda: 0, {1: b"p" * 32})
    await snapshot.load()
    view = snapshot.tenant("ten")
    assert view is not None
    entries = dict(view.keys)
    assert [meter.limit.algorithm.requests for meter in view.keys["key_0"].limits.meters] == [5]

    feed.rows = SnapshotRows(sequence=2, customers=[_customer(7)])
    feed.changes = [Change(2, "ten", "customer", "cus")]
    await snapshot.catch_up()
    assert all(view.keys[key_id] is entry for key_id, entry in entries.items())
    for entry in view.keys.values():
        assert [meter.limit.algorithm.requests for meter in entry.limits.meters] == [7]


def test_keys_share_what_was_compiled_of_their_customer_and_only_within_an_environment() -> None:
    customers = {"cus": CustomerEntry(_customer(5, 20))}
    first, second = (KeyEntry(_key(number), customers) for number in range(2))
    test_key = KeyEntry(_key(3, environment=Environment.TEST), customers)
    assert all(one is other for one, other in zip(first.limits.counters, second.limits.counters, strict=True))
    assert not {one.key for one in first.limits.counters} & {other.key for other in test_key.limits.counters}


def test_a_key_has_its_own_limits_first_and_loses_those_of_a_customer_that_is_gone() -> None:
    customers = {"cus": CustomerEntry(_customer(5))}
    own = msgspec.structs.replace(_limits(9)[0], id="lim_own")
    entry = KeyEntry(_key(1, rate_limits=(own,)), customers)
    assert [counter.limit.id for counter in entry.limits.counters] == ["lim_own", "lim_0"]
    assert entry.limits is entry.limits
    del customers["cus"]
    assert [counter.limit.id for counter in entry.limits.counters] == ["lim_own"]
