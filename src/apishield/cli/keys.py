"""``apishield keys``: the life of API keys from a shell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from apishield.cli.output import moment, out, print_json, print_table, say
from apishield.core.key_manager.lifecycle import status
from apishield.core.key_manager.scopes import DEFAULT_SCOPES
from apishield.core.model import Limit, Quota
from apishield.core.rate_limiter.parse import parse_limit
from apishield.core.records import Environment, Key, KeyKind

if TYPE_CHECKING:
    from apishield.cli.administration import Administration

app = typer.Typer(help="Make, list, rotate and revoke API keys, straight on the database.", no_args_is_help=True)

Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant", "-t", envvar="APISHIELD_TENANT", help="Id or name of the tenant, where there are several."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeyId = Annotated[str, typer.Argument(help="The key's id, key_….")]
_DAY_US = 86_400_000_000


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is called.")],
    tenant: Tenant = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="read, write, admin or one of your own; may be repeated. A caller's default: read and write."
        ),
    ] = None,
    limit: Annotated[list[str], typer.Option(help='A rate limit such as "1000/minute"; may be repeated.')] = [],  # noqa: B006
    monthly_quota: Annotated[int | None, typer.Option(help="Requests in a calendar month.", min=1)] = None,
    allowed_ip: Annotated[list[str], typer.Option(help="An address or network; may be repeated.")] = [],  # noqa: B006
    kind: Annotated[KeyKind, typer.Option(help="caller: for who calls your API; service: for SDKs.")] = KeyKind.CALLER,
    environment: Annotated[Environment, typer.Option(help="live, or test.")] = Environment.LIVE,
    expires_in_days: Annotated[int | None, typer.Option(help="How many days it is valid.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Prints its secret, this once.

    Examples:

    apishield keys create "Production" --scope read --scope write --limit 1000/minute --monthly-quota 500000

    apishield keys create "Nightly job" --limit "10/second burst 20" --expires-in-days 90
    """
    from apishield.cli.administration import administer  # noqa: PLC0415
    from apishield.services.key_drafts import KeyDraft  # noqa: PLC0415

    draft = KeyDraft(
        name=name,
        kind=kind,
        environment=environment,
        scopes=tuple(scope or (DEFAULT_SCOPES if kind is KeyKind.CALLER else ())),
        rate_limits=tuple(_limit(text) for text in limit),
        quotas=() if monthly_quota is None else (Limit(id="", name="monthly", algorithm=Quota(monthly_quota)),),
        allowed_ips=tuple(allowed_ip),
        expires_at_us=None if expires_in_days is None else _now_us() + expires_in_days * _DAY_US,
    )

    async def make(at: Administration) -> tuple[Key, str]:
        return await at.keys.create(await at.within(tenant), draft)

    _show_secret(*administer(make), as_json=as_json)


@app.command("list")
def list_keys(
    tenant: Tenant = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="Part of a name or a hint.")] = None,
    as_json: AsJson = False,
) -> None:
    """List keys, newest first.

    Example: apishield keys list --query prod
    """
    from apishield.cli.administration import administer, pages  # noqa: PLC0415

    async def read(at: Administration) -> list[Key]:
        actor = await at.within(tenant)
        return [key async for key in pages(lambda page: at.keys.list(actor, page, query=query))]

    keys = administer(read)
    if as_json:
        print_json([_described(key) for key in keys])
        return
    rows = [(key.id, key.name, key.hint, key.kind, status(key, _now_us()), moment(key.last_used_at_us)) for key in keys]
    print_table(("Id", "Name", "Hint", "Kind", "Status", "Last used"), rows, "There is no such key.")


@app.command()
def show(key_id: KeyId, tenant: Tenant = None) -> None:
    """Show all of a key but its secret.

    Example: apishield keys show key_01…
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    async def read(at: Administration) -> Key:
        return await at.keys.get(await at.within(tenant), key_id)

    print_json(_described(administer(read)))


@app.command()
def rotate(
    key_id: KeyId,
    tenant: Tenant = None,
    grace_seconds: Annotated[int, typer.Option(help="How long the old secret still works.", min=0)] = 86_400,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it, this once. The old one works for a day unless you say otherwise.

    Example: apishield keys rotate key_01… --grace-seconds 3600
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    async def turn(at: Administration) -> tuple[Key, str]:
        return await at.keys.rotate(await at.within(tenant), key_id, grace_seconds=grace_seconds)

    key, secret = administer(turn)
    _show_secret(key, secret, as_json=as_json)
    say(f"The old secret works until {moment(key.previous_expires_at_us)}.")


@app.command()
def revoke(key_id: KeyId, tenant: Tenant = None) -> None:
    """End a key for ever, on every node within a second.

    Example: apishield keys revoke key_01…
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    async def end(at: Administration) -> Key:
        return await at.keys.revoke(await at.within(tenant), key_id)

    key = administer(end)
    out.print(f"{key.id} ({key.name}) is revoked.", markup=False)


def _limit(text: str) -> Limit:
    try:
        return Limit(id="", name=text, algorithm=parse_limit(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--limit") from None


def _show_secret(key: Key, secret: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_described(key) | {"key": secret})
        return
    out.print(f"{'Id':<8}{key.id}\n{'Key':<8}{secret}", markup=False)
    say("\nThe key is shown only now.")


def _described(key: Key) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(key)
    return fields | {"status": status(key, _now_us())}


def _now_us() -> int:
    return time.time_ns() // 1000
