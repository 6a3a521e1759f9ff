"""``apishield serve``: checks, migrates, serves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from apishield import environment
from apishield.cli.output import warn


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; sets APISHIELD_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one; sets APISHIELD_PORT.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data lies; sets APISHIELD_DATA_DIR.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; more than one needs REDIS_URL.")] = None,
) -> None:
    """Start the service: migrates the database, then answers requests until told to stop.

    Without any setting it runs on SQLite in ./data, counts in memory and listens on http://localhost:8000. With
    DATABASE_URL (PostgreSQL) and REDIS_URL set it shares both with other nodes.

    Ctrl-C and SIGTERM let requests in flight finish.

    Examples:

    apishield serve

    APISHIELD_PORT=9000 apishield serve --data-dir /var/lib/apishield

    DATABASE_URL=postgresql://user:password@db:5432/apishield REDIS_URL=redis://redis:6379/0 apishield serve --workers 4
    """
    options = {"APISHIELD_HOST": host, "APISHIELD_PORT": port, "APISHIELD_DATA_DIR": data_dir,
               "APISHIELD_WORKERS": workers}  # fmt: skip
    # Through the environment, because workers read their settings from it.
    os.environ.update({name: str(value) for name, value in options.items() if value is not None})
    loaded = environment.load()

    import asyncio  # noqa: PLC0415  wrong settings are told before the service's parts are loaded

    from apishield.cli import server  # noqa: PLC0415
    from apishield.cli.banner import Banner, operator_line  # noqa: PLC0415
    from apishield.cli.ledger_process import LedgerProcess  # noqa: PLC0415
    from apishield.cli.start import alone, bind, check_values, prepare_patiently  # noqa: PLC0415
    from apishield.stores.data_directory import DataDirectory  # noqa: PLC0415
    from apishield.telemetry import configure_logging  # noqa: PLC0415

    settings = loaded.settings
    for warning in loaded.warnings:
        warn(warning)
    configure_logging(settings.log_level, settings.log_format)
    check_values(settings)
    DataDirectory(settings.data_dir).prepare()
    with bind(settings) as listener, alone(settings):
        prepared = asyncio.run(prepare_patiently(settings))
        operator = operator_line(settings, prepared.operator_token)
        banner = Banner(settings, listener.getsockname()[1], operator)
        with LedgerProcess(settings) as ledger:  # ends after the service, whose last events it takes
            ledger.start()  # once the schema is there, and before the first answer, so that figures are not behind it
            code = server.serve(settings, listener, banner.print)
    raise typer.Exit(code)
