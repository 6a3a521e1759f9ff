"""``apishield tenants``: make and list tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apishield.cli.output import moment, out, print_json, print_table, say

if TYPE_CHECKING:
    from apishield.cli.administration import Administration
    from apishield.core.records import Tenant
    from apishield.services.tenants import TenantCreated

app = typer.Typer(help="Make and list tenants, straight on the database.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the tenant is called.")],
    plan: Annotated[str, typer.Option(help="The tenant's plan.")] = "starter",
    as_json: AsJson = False,
) -> None:
    """Make a tenant. Prints its token and its first service key, this once.

    Example: apishield tenants create "My App"
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    async def make(at: Administration) -> TenantCreated:
        return await at.tenants.create(at.operator, name=name, plan=plan)

    made = administer(make)
    if as_json:
        print_json({"id": made.tenant.id, "name": made.tenant.name, "token": made.token_secret,
                    "api_key": {"id": made.key.id, "key": made.key_secret}})  # fmt: skip
        return
    for label, value in (("Tenant", made.tenant.id), ("Token", made.token_secret), ("Service key", made.key_secret)):
        out.print(f"{label:<12}{value}", markup=False)
    say("\nThe token and the key are shown only now. The token changes everything of this tenant; the key checks.")


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List all tenants.

    Example: apishield tenants list --json
    """
    from apishield.cli.administration import administer, pages  # noqa: PLC0415

    async def read(at: Administration) -> list[Tenant]:
        return [tenant async for tenant in pages(lambda page: at.tenants.list(at.operator, page))]

    tenants = administer(read)
    if as_json:
        print_json([{"id": t.id, "name": t.name, "plan": t.plan, "status": t.status} for t in tenants])
        return
    rows = [(t.id, t.name, t.plan, t.status, moment(t.created_at_us)) for t in tenants]
    print_table(("Id", "Name", "Plan", "Status", "Made"), rows, "There is no tenant yet: apishield tenants create NAME")
