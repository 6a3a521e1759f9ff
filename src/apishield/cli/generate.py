"""``apishield generate``: secrets for the settings."""

from __future__ import annotations

import secrets

import typer

from apishield.cli.output import out

app = typer.Typer(help="Make secrets for the settings.", no_args_is_help=True)


@app.command()
def secret() -> None:
    """Print a new master secret, for APISHIELD_SECRET.

    Example: apishield generate secret > /run/secrets/apishield
    """
    from apishield.services.secrets import Secrets  # noqa: PLC0415

    out.print(Secrets.generate(), markup=False)


@app.command("operator-token")
def operator_token() -> None:
    """Print a new operator's token, for APISHIELD_OPERATOR_TOKEN.

    Example: APISHIELD_OPERATOR_TOKEN=$(apishield generate operator-token) apishield serve
    """
    from apishield.core.key_manager.format import SecretKind, make_secret  # noqa: PLC0415

    out.print(make_secret(SecretKind.OPERATOR_TOKEN, secrets.token_bytes), markup=False)
