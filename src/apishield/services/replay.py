"""Replays: what a policy would have done to a tenant's recorded traffic, before anybody is refused by it.

Owns: which policy and which period are replayed, the jobs and how many there are. Does not own: how a policy decides
(``core.replay``), how the work shares the node with checks (``replay_work``) and with other replays (``replay_turns``), how
decisions are kept.

A replay is a job that is kept in the database, so that any node can say how far it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets as system_random
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from apishield.analytics.steps import DAY_S
from apishield.core.ids import new_id
from apishield.core.model import SECOND_US, Limit, Mode
from apishield.core.ports import Clock
from apishield.core.records import Actor, Match, Policy
from apishield.core.replay import warm_from_us
from apishield.core.replay_questions import Surroundings
from apishield.core.replay_report import ReplayJob
from apishield.errors import Fault, ProblemError
from apishield.services import policy_checks
from apishield.services.aside import aside
from apishield.services.base import given, hold_tenant, not_found, tenant_of
from apishield.services.replay_turns import Pace, ReplayTurns
from apishield.services.replay_work import Cancelled, DecisionSource, Work
from apishield.services.snapshot import Snapshot
from apishield.stores.sql.database import Database
from apishield.stores.sql.unit_of_work import UnitOfWork

log = structlog.get_logger("apishield.replay")

MOST_RUNNING: Final = 2  # of one tenant, on all nodes
MOST_KEPT: Final = 50  # of one tenant
DAYS_KEPT: Final = 7
STOPPED: Final = "The node that ran the replay was stopped. Ask again."
_NOTE_SECONDS: Final = 1.0
_SILENT_US: Final = 30 * SECOND_US  # a replay that says nothing for so long has died with its node


class ReplayDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be replayed: the tenant's policy ``policy_id``, with what is given in place of its own; or a new one."""

    policy_id: str | None = None
    from_us: int
    to_us: int
    limit: Limit | UnsetType = UNSET
    match: Match | UnsetType = UNSET
    per: tuple[str, ...] | UnsetType = UNSET
    cost: int | UnsetType = UNSET


class ReplayService:
    """Runs replays. ``freshness`` waits for a moment until what this node decided is in the archive."""

    def __init__(
        self,
        database: Database,
        source: DecisionSource,
        snapshot: Snapshot,
        clock: Clock,
        *,
        replay_days: int,
        entropy: Callable[[int], bytes] = system_random.token_bytes,
        freshness: Callable[[], Awaitable[object]] | None = None,
        pace: Pace = asyncio.sleep,
    ) -> None:
        self._database = database
        self._source = source
        self._snapshot = snapshot
        self._clock = clock
        self._replay_days = replay_days
        self._entropy = entropy
        self._freshness = freshness
        self._turns = ReplayTurns(pace)
        self._tasks: dict[str, asyncio.Task[ReplayJob]] = {}

    async def begin(self, actor: Actor, draft: ReplayDraft, *, patience_seconds: float | None = 1.0) -> ReplayJob:
        """Begins a replay, and waits a moment for its end (``None``: however long it takes).

        The answer's status is ``done`` or ``failed``; else it is ``running``, and ``get`` tells what becomes of it. Raises
        422 for what can't be replayed, and where the tenant has too many under way.
        """
        now_us = self._clock()
        covered = self._covered(draft, now_us)
        if self._freshness is not None:
            await self._freshness()
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            known = await _known(tx, tenant.id, draft.policy_id)
            overrides = 0 if known is None else len(known.overrides)
            policy = await aside(overrides, lambda: _policy(tenant.id, known, draft, now_us))
            await _refuse_more(tx, tenant.id, now_us)
            job = self._job(policy, draft, covered, now_us)
            await tx.replays.insert(tenant.id, job)
            await tx.replays.keep_newest(tenant.id, MOST_KEPT)
        work = Work(job, self._surroundings(tenant.id, tenant.plan), _in_force_since_us(known, policy))
        task = self._tasks[job.id] = asyncio.create_task(self._run(work), name=f"replay {job.id}")
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        await asyncio.wait({task}, timeout=patience_seconds)
        return task.result() if task.done() and not task.cancelled() else await self.get(actor, job.id)

    async def get(self, actor: Actor, job_id: str) -> ReplayJob:
        """A replay, and what is known of it."""
        async with self._database.read() as tx:
            job = await tx.replays.get(tenant_of(actor), job_id)
        if job is None:
            raise not_found("replay", job_id)
        if job.status == "running" and job.updated_at_us < self._clock() - _SILENT_US:
            return msgspec.structs.replace(job, status="failed", error=STOPPED)
        return job

    async def delete(self, actor: Actor, job_id: str) -> None:
        """Forgets a replay; one that runs ends, on whatever node, within a second or so."""
        tenant_id = tenant_of(actor)
        async with self._database.transaction() as tx:
            if await tx.replays.get(tenant_id, job_id) is None:
                raise not_found("replay", job_id)
            await tx.replays.delete(tenant_id, job_id)

    async def close(self) -> None:
        """Ends what runs here; whoever asks for it later is told so."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _covered(self, draft: ReplayDraft, now_us: int) -> tuple[int, int]:
        """The part of the period of which decisions are kept. Raises 422 where there is none."""
        if draft.from_us >= draft.to_us:
            raise _invalid("to", "must be later than from")
        if draft.from_us >= now_us:
            raise _invalid("from", "lies in the future; only what was recorded can be replayed")
        from_us, to_us = max(draft.from_us, self._kept_since_us(now_us)), min(draft.to_us, now_us + 1)
        if from_us >= to_us:
            kept = f"decisions are kept for {self._replay_days} days (APISHIELD_REPLAY_DAYS)"
            raise _invalid("to", f"lies before everything that is kept: {kept}")
        return from_us, to_us

    def _kept_since_us(self, now_us: int) -> int:
        return max(0, now_us - self._replay_days * DAY_S * SECOND_US)

    def _job(self, policy: Policy, draft: ReplayDraft, covered: tuple[int, int], now_us: int) -> ReplayJob:
        warm_us = max(warm_from_us(policy, covered[0]), self._kept_since_us(now_us))
        return ReplayJob(
            id=new_id("rpl", now_us, self._entropy),
            tenant_id=policy.tenant_id,
            status="running",
            policy=policy,
            from_us=draft.from_us,
            to_us=draft.to_us,
            covered_from_us=covered[0],
            covered_to_us=covered[1],
            warm_from_us=warm_us,
            position_us=warm_us,
            created_at_us=now_us,
            updated_at_us=now_us,
        )

    def _surroundings(self, tenant_id: str, plan: str) -> Surroundings:
        view = self._snapshot.tenant(tenant_id)
        if view is None:
            return Surroundings(plan, lambda _: ())
        keys = view.keys
        return Surroundings(
            plan,
            lambda key_id: keys[key_id].key.scopes if key_id in keys else (),
            frozenset(entry.subject for entry in view.endpoints.values()),
        )

    # --- the job ------------------------------------------------------------------------------------------------------

    async def _run(self, work: Work) -> ReplayJob:
        """Runs a job to its end, whatever that is, and writes it down."""
        job, watch = work.job, asyncio.create_task(self._watch(work))
        try:
            async with self._turns.job(job.tenant_id) as pace:
                ended = await work.run(self._database, self._source, pace, self._clock())
        except (asyncio.CancelledError, Cancelled) as error:
            ended = msgspec.structs.replace(job, status="cancelled", error=STOPPED)
            if isinstance(error, asyncio.CancelledError):
                with contextlib.suppress(Exception):  # the process ends, with or without a database
                    await self._finish(ended)
                raise
        except ProblemError as error:
            ended = msgspec.structs.replace(job, status="failed", error=error.detail)
        except Exception as error:
            log.exception("replay.failed", replay=job.id, error=f"{type(error).__name__}: {error}"[:500])
            ended = msgspec.structs.replace(job, status="failed", error="Something went wrong on our side.")
        finally:
            watch.cancel()
        return await self._finish(ended)

    async def _watch(self, work: Work) -> None:
        """Says each second that the job lives and how far it came; ends it where somebody has deleted it."""
        job = work.job
        while not work.stopped:
            await asyncio.sleep(_NOTE_SECONDS)
            with contextlib.suppress(ProblemError):  # the next second tries again
                async with self._database.transaction() as tx:
                    work.stopped = not await tx.replays.advance(
                        job.tenant_id, job.id, position_us=work.position_us, now_us=self._clock()
                    )

    async def _finish(self, ended: ReplayJob) -> ReplayJob:
        ended = msgspec.structs.replace(ended, updated_at_us=self._clock())
        async with self._database.transaction() as tx:
            await tx.replays.finish(ended.tenant_id, ended)
        return ended


async def forget_old_replays(tx: UnitOfWork, now_us: int) -> None:
    """Forgets replays that are older than what they tell of may be kept."""
    await tx.replays.forget_before(created_at_us=now_us - DAYS_KEPT * DAY_S * SECOND_US)


async def _known(tx: UnitOfWork, tenant_id: str, policy_id: str | None) -> Policy | None:
    policy = None if policy_id is None else await tx.policies.get(tenant_id, policy_id)
    if policy is None and policy_id is not None:
        raise not_found("policy", policy_id)
    return policy


async def _refuse_more(tx: UnitOfWork, tenant_id: str, now_us: int) -> None:
    running = await tx.replays.running(tenant_id, since_us=now_us - _SILENT_US, at_most=MOST_RUNNING)
    if running >= MOST_RUNNING:
        raise ProblemError("ceiling_reached", f"{running} replays are under way. Wait until one ends, or delete one.")


def _policy(tenant_id: str, known: Policy | None, draft: ReplayDraft, now_us: int) -> Policy:
    """The policy to be replayed. Raises 422 with all that is wrong with it, by field."""
    if known is None:
        if draft.limit is UNSET:
            raise _invalid("limit", "is missing; give a limit, or the policy whose own is to be replayed")
        known = Policy(
            id="",
            tenant_id=tenant_id,
            name="replay",
            per=("key",),
            limit=draft.limit,
            created_at_us=now_us,
            updated_at_us=now_us,
        )
    changes = {name: value for name, value in given(draft).items() if name in {"limit", "match", "per", "cost"}}
    policy = msgspec.structs.replace(known, **changes)
    limit = msgspec.structs.replace(
        policy.limit, id=known.limit.id or "lim_replay", name=policy.limit.name or known.limit.name or known.name[:64]
    )
    return policy_checks.checked(msgspec.structs.replace(policy, limit=limit))


def _in_force_since_us(known: Policy | None, policy: Policy) -> int | None:
    """Since when live checks are decided by the policy just as it is replayed; ``None`` where they are not."""
    if known is None or known != policy or not known.enabled or Mode.SHADOW in {known.mode, known.limit.mode}:
        return None
    return known.updated_at_us


def _invalid(field: str, message: str) -> ProblemError:
    return ProblemError("validation_failed", f"{field} {message}.", faults=[Fault(f"/{field}", message)])
