"""``apishield audit``: verifies the chain of the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apishield.cli.output import EXIT_FAILED, complain, out, print_json

if TYPE_CHECKING:
    from apishield.cli.administration import Administration
    from apishield.services.audit import AuditReport

MAX_DIGITS = 19

app = typer.Typer(help="The log of every change.", no_args_is_help=True)


@app.callback()
def audit() -> None:
    """The log of every change."""


@app.command()
def verify(
    tenant: Annotated[str | None, typer.Option(help="Id or name of one tenant; without it, all are verified.")] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            help="Entry that was seen before, as the service's log has it: chain:number:mac. Can be repeated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Walk the chain of the audit log and say where it breaks. Exits 1 where an entry was changed, added or removed.

    Example: apishield audit verify
    """
    from apishield.cli.administration import administer  # noqa: PLC0415

    expected = _expected(expect or [])

    async def walk(at: Administration) -> AuditReport:
        return await at.audit.verify(None if tenant is None else (await at.within(tenant)).tenant_id, expected)

    report = administer(walk)
    if as_json:
        print_json({"holds": report.holds, "chains": report.chains, "entries": report.entries, "breaks": report.breaks})
    elif report.holds:
        out.print(f"{report.entries:,} entries in {report.chains:,} chains: all hold.")
    for broken in () if as_json else report.breaks:
        complain(f"the chain of {broken.tenant_id} breaks at entry {broken.sequence}: {broken.reason}")
    if not report.holds:
        raise typer.Exit(EXIT_FAILED)


def _expected(texts: list[str]) -> dict[str, dict[int, str]]:
    expected: dict[str, dict[int, str]] = {}
    for text in texts:
        chain, _, rest = text.partition(":")
        number, _, mac = rest.partition(":")
        if not (chain and mac and number.isascii() and number.isdigit() and len(number) < MAX_DIGITS):
            raise typer.BadParameter(f"{text!r} is not chain:number:mac", param_hint="--expect")
        expected.setdefault(chain, {})[int(number)] = mac
    return expected
