"""What policies in shadow would have refused, by day; and whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.ports import ShadowDay, ShadowSubject
from apishield.stores.sql.dialects import upsert
from apishield.stores.sql.repositories.base import row_of
from apishield.stores.sql.tables import shadow_day, shadow_subjects

SUBJECTS_KEPT = 500
"""Of each policy and day: those with the highest counts."""


class ShadowRepository:
    """Written behind by the data plane, in batches."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, days: Sequence[ShadowDay], subjects: Sequence[ShadowSubject]) -> None:
        """Adds to the counts. Rows go in one order, so that two nodes that write the same ones can't wait for each other."""
        if days:
            statement = upsert(
                self._connection,
                shadow_day,
                ["tenant_id", "policy_id", "day"],
                lambda new: {
                    "would_refuse": shadow_day.c.would_refuse + new.would_refuse,
                    "admitted": shadow_day.c.admitted + new.admitted,
                },
            )
            await self._connection.execute(statement, [row_of(row) for row in sorted(days, key=_place)])
        if subjects:
            statement = upsert(
                self._connection,
                shadow_subjects,
                ["tenant_id", "policy_id", "day", "subject"],
                lambda new: {"would_refuse": shadow_subjects.c.would_refuse + new.would_refuse},
            )
            ordered = sorted(subjects, key=lambda row: (_place(row), row.subject))
            await self._connection.execute(statement, [row_of(row) for row in ordered])
            for tenant_id, policy_id, day in sorted({_place(row) for row in subjects}):
                await self._keep_the_most(tenant_id, policy_id, day)

    async def _keep_the_most(self, tenant_id: str, policy_id: str, day: str) -> None:
        of_day = [*_of(shadow_subjects, tenant_id, policy_id), shadow_subjects.c.day == day]
        beyond = (
            select(shadow_subjects.c.subject)
            .where(*of_day)
            .order_by(shadow_subjects.c.would_refuse.desc(), shadow_subjects.c.subject)
            .offset(SUBJECTS_KEPT)
        )
        await self._connection.execute(
            delete(shadow_subjects).where(*of_day, shadow_subjects.c.subject.in_(beyond.scalar_subquery()))
        )

    async def days(self, tenant_id: str, policy_id: str) -> list[ShadowDay]:
        """The policy's counts of each day that has any, oldest first."""
        statement = select(shadow_day).where(*_of(shadow_day, tenant_id, policy_id)).order_by(shadow_day.c.day)
        return [ShadowDay(**row._mapping) for row in await self._connection.execute(statement)]

    async def subjects(self, tenant_id: str, policy_id: str, *, at_most: int) -> dict[str, int]:
        """The subjects that would have been refused most, over all days that are kept, with how often."""
        times = func.sum(shadow_subjects.c.would_refuse)
        statement = (
            select(shadow_subjects.c.subject, times)
            .where(*_of(shadow_subjects, tenant_id, policy_id))
            .group_by(shadow_subjects.c.subject)
            .order_by(times.desc(), shadow_subjects.c.subject)
            .limit(at_most)
        )
        return {subject: int(total) for subject, total in await self._connection.execute(statement)}

    async def forget(self, tenant_id: str, policy_id: str) -> None:
        """Begins anew for a policy."""
        for table in (shadow_day, shadow_subjects):
            await self._connection.execute(delete(table).where(*_of(table, tenant_id, policy_id)))

    async def forget_before(self, *, day: str, subjects_day: str) -> None:
        """Forgets days before ``day``, and who it was before ``subjects_day``: addresses are not kept for long."""
        await self._connection.execute(delete(shadow_day).where(shadow_day.c.day < day))
        await self._connection.execute(delete(shadow_subjects).where(shadow_subjects.c.day < subjects_day))


def _of(table: Table, tenant_id: str, policy_id: str) -> Iterable[ColumnElement[bool]]:
    return table.c.tenant_id == tenant_id, table.c.policy_id == policy_id


def _place(row: ShadowDay | ShadowSubject) -> tuple[str, str, str]:
    return row.tenant_id, row.policy_id, row.day
