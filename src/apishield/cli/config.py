"""``apishield config``: validates the settings, shows them, and prints the pages made from them."""

from __future__ import annotations

from typing import Annotated

import typer

from apishield import environment, settings
from apishield.cli.output import out, print_json, print_table, say, warn
from apishield.environment import Loaded
from apishield.settings import Variable

app = typer.Typer(help="Check and show the settings.", no_args_is_help=True)


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """Validate the settings before a start; show them, secrets masked, and where each comes from.

    Connects to nothing: `apishield doctor` does. Exits 2 where a setting is wrong.

    Example: DATABASE_URL=postgresql://… apishield config check
    """
    from apishield.cli.start import check_values  # noqa: PLC0415

    loaded = environment.load()
    check_values(loaded.settings)
    for warning in loaded.warnings:
        warn(warning)
    rows = [(variable.name, shown(loaded, name, variable), loaded.origins[name]) for name, _, variable in
            settings.variables()]  # fmt: skip
    if as_json:
        print_json({name: {"value": value, "origin": origin} for name, value, origin in rows})
    else:
        print_table(("Variable", "Value", "From"), rows, "")
        say("\nThe settings can be used.")


@app.command()
def docs() -> None:
    """Print docs/reference/settings.md."""
    from apishield.cli.reference import settings_page  # noqa: PLC0415

    out.print(settings_page(), markup=False, end="")


@app.command()
def env() -> None:
    """Print .env.example."""
    from apishield.cli.reference import env_example  # noqa: PLC0415

    out.print(env_example(), markup=False, end="")


def shown(loaded: Loaded, name: str, variable: Variable) -> str:
    """The effective value as people may see it."""
    value = getattr(loaded.settings, name)
    if value is None or value == ():
        return "(not set)"
    return settings.shown(variable, value).strip("'")
