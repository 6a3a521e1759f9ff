"""``apishield endpoints``: the catalogue of an API's routes from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from apishield.cli.keys import AsJson, Tenant
from apishield.cli.output import EXIT_FAILED, complain, out, print_json, print_table, say

if TYPE_CHECKING:
    from apishield.cli.administration import Administration
    from apishield.core.records import Endpoint
    from apishield.services.endpoints import ImportedEndpoint

app = typer.Typer(help="List, add, import and remove endpoints, straight on the database.", no_args_is_help=True)


@app.command("list")
def list_endpoints(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """List the catalogue, newest first.

    Example: apishield endpoints list
    """
    from apishield.cli.administration import administer, pages  # noqa: PLC0415

    async def read(at: Administration) -> list[Endpoint]:
        actor = await at.within(tenant)
        return [endpoint async for endpoint in pages(lambda page: at.endpoints.list(actor, page))]

    endpoints = administer(read)
    if as_json:
        print_json(endpoints)
        return
    rows = [
        (
            endpoint.id,
            endpoint.method,
            endpoint.path,
            _scopes(endpoint),
            _cost(endpoint),
            "yes" if endpoint.login else "",
        )
        for endpoint in endpoints
    ]
    print_table(("Id", "Method", "Path", "Scopes", "Cost", "Login"), rows, "The catalogue is empty.")


@app.command()
def add(
    method: Annotated[str, typer.Argument(help="Such as GET, or * for any.")],
    path: Annotated[str, typer.Argument(help='Such as "/orders/{id}" or "/files/*".')],
    tenant: Tenant = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="What a key must hold; may be repeated. Default: by the method.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Nobody needs a scope.")] = False,
    cost: Annotated[int, typer.Option(help="What a request costs.", min=0)] = 1,
    login: Annotated[bool, typer.Option("--login", help="Callers give their passwords here.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add an endpoint.

    Example: apishield endpoints add GET "/orders/{id}" --scope orders:read --cost 2
    """
    from apishield.cli.administration import administer  # noqa: PLC0415
    from apishield.services.endpoints import EndpointDraft  # noqa: PLC0415

    if public and scope:
        raise typer.BadParameter("can't be combined with --scope", param_hint="--public")
    scopes = () if public else tuple(scope) if scope else None
    draft = EndpointDraft(method=method.upper(), path=path, required_scopes=scopes, cost=cost, login=login)

    async def make(at: Administration) -> Endpoint:
        return await at.endpoints.create(await at.within(tenant), draft)

    endpoint = administer(make)
    if as_json:
        print_json(endpoint)
    else:
        out.print(f"{endpoint.id}  {endpoint.method} {endpoint.path}", markup=False)


@app.command("import")
def import_document(
    file: Annotated[
        Path, typer.Argument(help="An OpenAPI 3 or Swagger 2 document, as JSON.", exists=True, dir_okay=False)
    ],
    tenant: Tenant = None,
    base_path: Annotated[
        str | None, typer.Option(help="Instead of the path of the document's first server.", metavar="/PATH")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take over the operations of an OpenAPI document. A bad one spoils only itself; the exit code is then 1.

    Example: apishield endpoints import openapi.json --base-path /v1
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    document = _read(file)

    async def take(at: Administration) -> list[ImportedEndpoint]:
        return list(await at.endpoints.import_document(await at.within(tenant), document, base_path=base_path))

    results = administer(take)
    failed = [result for result in results if result.outcome == "failed"]
    if as_json:
        print_json(results)
    else:
        rows = [(result.outcome, result.method, result.path) for result in results]
        print_table(("Outcome", "Method", "Path"), rows, "The document has no operations.")
        for result in failed:
            for fault in result.faults:
                complain(f"{fault.pointer} {fault.message}")
    if failed:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def remove(
    endpoint_id: Annotated[str, typer.Argument(help="The endpoint's id, end_….")],
    tenant: Tenant = None,
) -> None:
    """Take an endpoint out of the catalogue; on every node within a second.

    Example: apishield endpoints remove end_01…
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    async def drop(at: Administration) -> None:
        await at.endpoints.delete(await at.within(tenant), endpoint_id)

    administer(drop)
    say(f"{endpoint_id} is removed.")


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}", param_hint="FILE") from None
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{file} is no OpenAPI document: it is not an object", param_hint="FILE")
    return document


def _scopes(endpoint: Endpoint) -> str:
    scopes = endpoint.required_scopes
    return "by method" if scopes is None else ", ".join(scopes) or "none"


def _cost(endpoint: Endpoint) -> str:
    cost = endpoint.cost
    return str(cost) if isinstance(cost, int) else msgspec.json.encode(cost).decode()
