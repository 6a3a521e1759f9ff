"""``apishield reconcile``: do the live counters, the ledger and its rollups say the same?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apishield import environment
from apishield.cli.output import EXIT_FAILED, print_json, print_table, say, warn

if TYPE_CHECKING:
    from apishield.cli.administration import Administration
    from apishield.cli.reconciliation import Reconciliation
    from apishield.services.backlog import Backlog

_IN_MEMORY = (
    "REDIS_URL is not set: the live counters are in the memory of the service, which looks after them by itself. "
    "Only the rollups were compared."
)
_NOTHING_WAITS = (
    "Nothing is known to wait for the ledger, here or in Kafka: what is orphaned was charged by processes that were killed, "
    "or it waits in the spools of other nodes."
)
_LEFT_TO_NODES = "Nodes are running: they heal this by themselves within half a minute, so nothing was charged here."


def reconcile(
    heal: Annotated[
        bool, typer.Option("--heal/--no-heal", help="Charge counters what they lost, where no node runs that would.")
    ] = True,
    pause_seconds: Annotated[
        float, typer.Option(help="Between two looks: longer than events take to the ledger.", min=0.0, max=60.0)
    ] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the live quota counters with the ledger, and the ledger's minutes, hours, days and grouping sets with each other.

    A difference counts where it lasts over three looks, so that what is on its way does not. Exits 1 where there is drift,
    healed or not, or where a counter gave no answer.

    Example: apishield reconcile --no-heal --json
    """
    settings = environment.load().settings

    from apishield.cli.administration import administer  # noqa: PLC0415
    from apishield.cli.reconciliation import reconciled  # noqa: PLC0415  loads the service's parts

    async def look(at: Administration) -> Reconciliation:
        return await reconciled(at.database, settings, heal=heal, pause_seconds=pause_seconds)

    found = administer(look)
    if as_json:
        print_json(found)
    else:
        _print(found, heal=heal)
    if found.not_asked:
        warn(f"{found.not_asked:,} counters gave no answer: is Redis there? (apishield doctor)")
    if found.quotas or found.rollups or found.not_asked:
        raise typer.Exit(EXIT_FAILED)


def _of(waits: Backlog) -> str:
    """Whether what is orphaned may only be late."""
    if waits.is_empty:
        return _NOTHING_WAITS
    if waits.messages is None:
        return "Kafka did not say what waits there: what is orphaned may not be taken yet, and not be lost."
    parts = [f"{count:,} messages of partition {number}" for number, count in sorted(waits.messages.items()) if count]
    parts += [f"{waits.spool_bytes / 1e6:,.1f} MB in the spools of this machine"] if waits.spool_bytes else []
    return (
        f"Not in the ledger yet: {', '.join(parts)}. What is orphaned may be among that: a worker that is behind or stuck "
        "looks the same as a process that was killed. Look again when it is taken."
    )


def _print(found: Reconciliation, *, heal: bool) -> None:
    """The differences, for people."""
    if found.counters_compared:
        head = ("Key", "Limit", "Unit", "Ledger", "Counter", "Missing", "Orphaned", "Healed")
        rows = [
            (
                drift.key_id,
                drift.limit,
                drift.unit,
                f"{drift.ledger:,}",
                f"{drift.live:,}",
                f"{drift.missing:,}",
                f"{drift.orphaned:,}",
                "yes" if drift.healed else "no",
            )
            for drift in found.quotas
        ]
        print_table(head, rows, f"Quotas: {found.checked:,} in use, no drift.")
        if heal and found.nodes and any(drift.missing for drift in found.quotas):
            say(_LEFT_TO_NODES)
        if any(drift.orphaned for drift in found.quotas):
            say(_of(found.waits))
    else:
        say(_IN_MEMORY)
    print_table(
        ("Tenant", "Environment", "Measure", "Sum of", "is", "Sum of", "is"),
        [
            (
                each.tenant_id,
                each.environment,
                each.measure,
                each.one,
                f"{each.one_sum:,}",
                each.other,
                f"{each.other_sum:,}",
            )
            for each in found.rollups
        ],
        "Rollups: minutes, hours, days and grouping sets agree.",
    )
