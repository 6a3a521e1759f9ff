"""What the services need of the outside, as Protocols. Implementations live in ``stores``."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Literal, Protocol

import msgspec

from apishield.core.events import Event
from apishield.core.model import Counter, Once, Verdict
from apishield.core.records import Block, Customer, Endpoint, Key, Policy, SecretHash, Tenant, Token

ChangeKind = Literal["tenant", "token", "key", "customer", "policy", "endpoint", "block"]


class Clock(Protocol):
    """Where time comes from; tests own it."""

    def __call__(self) -> int:
        """Microseconds since the Unix epoch."""
        ...


class Hold(msgspec.Struct, frozen=True, gc=False):
    """What a check asks to be remembered of, if it is admitted, so that it can be settled: for how long, and how.

    ``factors`` are parallel to the counters: what one unit costs there. ``settles`` is whether a report's cost is taken;
    otherwise only slots and the whole charge can be given back.
    """

    record_key: str
    seconds: int
    factors: tuple[int, ...]
    settles: bool


class Held(msgspec.Struct, frozen=True):
    """The record of an admitted check: what was charged, and when."""

    counters: tuple[Counter, ...]
    costs: tuple[int, ...]
    factors: tuple[int, ...]
    settles: bool
    charged_at_us: int = 0


class EventLog(Protocol):
    """Where the events of this process are written down: in a turn of the loop many, with one write."""

    def append(self, event: Event) -> None:
        """Takes an event of this turn. Costs no I/O."""
        ...

    def flush(self) -> bool:
        """Writes down what was taken; called before anybody is told of it. Never raises.

        Returns whether all that was ever taken is written down, with its details or as counts.
        """
        ...

    def has_room_for(self, results: int) -> bool:
        """Whether so many results and settlements could be written down now. Whoever is told no refuses them."""
        ...


class CounterStore(Protocol):
    """Keeps the state of counters and decides verdicts over it, atomically."""

    def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check: charges every counter its cost, or none of them.

        ``costs`` is parallel to ``counters``; 0 only looks. All counters share one tenant, hence one Redis slot, and no key
        stands twice. An empty check is admitted. Shadow limits are charged exactly when the enforced ones admit and they
        themselves would. ``check_id`` names the slots that concurrency limits hand out. With ``hold`` a record of an admitted
        check is kept, also where there are no counters: what it reserved is the ledger's to know.
        Answers at once where it can (memory), so that the caller need not await.

        Raises ``StoreUnavailable`` where the state can't be reached; a fail-over store never does.
        """
        ...

    def send(self) -> None:
        """Lets what was asked in this turn go at once, where the store would wait for the turn's end: no more will come."""
        ...

    def decide_once(
        self,
        once: Once,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None = None,
    ) -> Verdict | Awaitable[Verdict]:
        """``decide``, for a check that may be asked again: where one of the same name was decided within a minute, whoever
        asked and on whatever node, nothing is charged and its verdict is the answer, a ``Repeat``.

        The verdict, admitted or not, is kept in the same step as the charge. There may be no counters: only the name counts.
        """
        ...

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        """Charges even past the limits: what was used already must count. Shadow limits are charged too."""
        ...

    async def held(self, record_key: str) -> Held | None:
        """The record under ``record_key``; ``None`` where there is none, it was settled, or its time is over."""
        ...

    async def settle(self, record_key: str, held: Held, costs: Sequence[int], check_id: str) -> bool:
        """Makes ``costs`` count instead of ``held.costs``, and frees the slots of ``check_id``; once, whoever asks first.

        What is too much goes back to where it was charged, as far as it still counts there; what is too little is charged
        even past the limit. Returns whether this call did it.
        """
        ...

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        """Frees the slots that ``check_id`` holds of those ``counters`` that are concurrency limits."""
        ...

    async def reset(self, counters: Sequence[Counter]) -> None:
        """Forgets the state of ``counters``."""
        ...

    async def close(self) -> None:
        """Lets go of connections; the store can't be used afterwards."""
        ...


class QuotaUse(msgspec.Struct, frozen=True):
    """Units of a quota that were used in the period that began at ``period_start_us``, as known at ``at_us``."""

    counter_key: str
    period_start_us: int
    used: int
    at_us: int


class ShadowDay(msgspec.Struct, frozen=True):
    """Checks of a day (UTC) that a policy in shadow would have refused, and that it would have let through, too."""

    tenant_id: str
    policy_id: str
    day: str
    since_us: int
    would_refuse: int
    admitted: int


class ShadowSubject(msgspec.Struct, frozen=True):
    """How often a policy in shadow would have refused one subject on a day; ``subject`` is as its counter's key has it."""

    tenant_id: str
    policy_id: str
    day: str
    subject: str
    would_refuse: int


class QuotaLedger(Protocol):
    """Durable use of calendar quotas: seeds counters that a store has lost, and is written behind."""

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        """Units used in the period that began at ``period_start_us``, by counter key; absent means none."""
        ...

    def note(self, counter_key: str, period_start_us: int, used: int, at_us: int) -> None:
        """Remembers the latest known use; written to the database behind, each second and at shutdown."""
        ...


class Change(msgspec.Struct, frozen=True):
    """One entry of the change feed: an object of a tenant changed. ``sequence`` has no gaps that fill later."""

    sequence: int
    tenant_id: str | None
    kind: ChangeKind
    object_id: str


class SnapshotRows(msgspec.Struct, frozen=True, kw_only=True):
    """What the data plane holds in memory. Deleted objects are absent; revoked and expired ones are present."""

    sequence: int
    tenants: list[Tenant] = []
    tokens: list[Token] = []
    token_secrets: list[SecretHash] = []
    keys: list[Key] = []
    key_secrets: list[SecretHash] = []
    customers: list[Customer] = []
    policies: list[Policy] = []
    endpoints: list[Endpoint] = []
    blocks: list[Block] = []


class SnapshotSource(Protocol):
    """Feeds the in-memory snapshot from the database."""

    async def load(self) -> SnapshotRows:
        """Everything, as of one moment."""
        ...

    async def changes_after(self, sequence: int) -> list[Change] | None:
        """What changed since, in order; ``None`` where the feed no longer reaches back so far and ``load`` is needed."""
        ...

    async def load_objects(self, changes: Sequence[Change]) -> SnapshotRows:
        """The present state of the changed objects; one that is absent from the answer was deleted."""
        ...
