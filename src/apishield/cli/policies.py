"""``apishield policies``: what limits apply to whom, and what those in shadow would refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from apishield.cli.keys import AsJson, Tenant
from apishield.cli.output import moment, out, print_json, print_table, say
from apishield.core.model import Mode

if TYPE_CHECKING:
    from apishield.cli.administration import Administration
    from apishield.core.records import Policy
    from apishield.services.shadow import ShadowReport

app = typer.Typer(
    help="List and show policies, and try them in shadow, straight on the database.", no_args_is_help=True
)
PolicyId = Annotated[str, typer.Argument(help="The policy's id, pol_….")]


@app.command("list")
def list_policies(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """List policies, newest first.

    Example: apishield policies list
    """
    from apishield.cli.administration import administer, pages  # noqa: PLC0415

    async def read(at: Administration) -> list[Policy]:
        actor = await at.within(tenant)
        return [policy async for policy in pages(lambda page: at.policies.list(actor, page))]

    policies = administer(read)
    if as_json:
        print_json(policies)
        return
    rows = [(policy.id, policy.name, ", ".join(policy.per), _limit(policy), _mode(policy)) for policy in policies]
    print_table(("Id", "Name", "Per", "Limit", "Mode"), rows, "There is no policy.")


@app.command()
def show(policy_id: PolicyId, tenant: Tenant = None) -> None:
    """Show all of a policy.

    Example: apishield policies show pol_01…
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    async def read(at: Administration) -> Policy:
        return await at.policies.get(await at.within(tenant), policy_id)

    print_json(administer(read))


@app.command()
def shadow(policy_id: PolicyId, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show what a policy in shadow would have refused since it last changed, by day, and whom most.

    Nodes write their counts each second.

    Example: apishield policies shadow pol_01…
    """
    from apishield.cli.administration import administer  # noqa: PLC0415
    from apishield.services.shadow import read_report  # noqa: PLC0415

    async def read(at: Administration) -> ShadowReport:
        actor = await at.within(tenant)
        policy = await at.policies.get(actor, policy_id)
        async with at.database.transaction() as tx:
            return await read_report(tx, policy.tenant_id, policy.id)

    report = administer(read)
    if as_json:
        print_json(report)
        return
    out.print(
        f"Would have refused {report.would_refuse:,} of {report.would_refuse + report.admitted:,} checks "
        f"since {moment(report.since_us)}.",
        markup=False,
    )
    print_table(
        ("Day", "Would refuse", "Let through"),
        [(day.day, f"{day.would_refuse:,}", f"{day.admitted:,}") for day in report.days],
        "Nothing was counted yet.",
    )
    subjects = [(_words(each.subject), f"{each.would_refuse:,}") for each in report.subjects]
    if subjects:
        print_table(("Subject", "Would refuse"), subjects, "")


@app.command()
def mode(
    policy_id: PolicyId,
    to: Annotated[Mode, typer.Argument(help="enforce, or shadow: count what it would refuse, and refuse nothing.")],
    tenant: Tenant = None,
) -> None:
    """Switch a policy between shadow and enforcement; on every node within a second.

    Example: apishield policies mode pol_01… enforce
    """
    from apishield.cli.administration import administer  # noqa: PLC0415
    from apishield.services.policies import PolicyChanges  # noqa: PLC0415

    async def switch(at: Administration) -> Policy:
        return await at.policies.update(await at.within(tenant), policy_id, PolicyChanges(mode=to))

    policy = administer(switch)
    say(f"{policy.id} ({policy.name}): {_mode(policy)}.")


def _limit(policy: Policy) -> str:
    numbers = msgspec.to_builtins(policy.limit.algorithm)
    window = next(
        (f" in {numbers[name] / 1_000_000:g} s" for name in ("window_us", "timeout_us") if name in numbers), ""
    )
    return f"{numbers['strategy']} {numbers['requests']:,} {policy.limit.unit}{window}"


def _mode(policy: Policy) -> str:
    return str(policy.mode.value) if policy.enabled else "disabled"


def _words(subject: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in subject.items())
