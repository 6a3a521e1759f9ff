"""``apishield operator-token``: the token of who runs the service."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import typer

from apishield.cli.output import out, say, warn

if TYPE_CHECKING:
    from apishield.cli.administration import Administration

app = typer.Typer(help="The token of who runs the service.", no_args_is_help=True)


@app.command()
def renew() -> None:
    """Make a new operator's token and print it, this once. The former one ends within a second.

    Example: apishield operator-token renew
    """
    from apishield import environment  # noqa: PLC0415
    from apishield.cli.administration import administer  # noqa: PLC0415
    from apishield.services import installation  # noqa: PLC0415

    async def replace(at: Administration) -> str:
        return await installation.replace_operator(at.database, at.secrets, secrets.token_bytes)

    token = administer(replace)
    out.print(token, markup=False)
    say("The former token ends on every running node within a second.")
    if environment.load().settings.operator_token is not None:
        warn("APISHIELD_OPERATOR_TOKEN is set, and comes first: a node that has it takes no other token.")
