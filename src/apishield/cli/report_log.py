"""``apishield report-log``: tells the service what a gateway answered, from its access log."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apishield.cli.output import EXIT_FAILED, say
from apishield.errors import ConfigurationError

if TYPE_CHECKING:
    from apishield.integrations.access_log.reporter import LogReporter
    from apishield.integrations.access_log.sources import LineReader, Source

_KEY = "APISHIELD_API_KEY"


def report_log(
    log_file: Annotated[
        Path | None,
        typer.Argument(metavar="LOG", help="The access log. It need not be there yet.", show_default=False),
    ] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read lines from standard input instead.")] = False,
    url: Annotated[str, typer.Option(help="Where APIShield runs.", envvar="APISHIELD_URL")] = "http://localhost:8000",
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the service key; else it is taken from {_KEY}.", envvar=f"{_KEY}_FILE"),
    ] = None,
    position_file: Annotated[
        Path | None,
        typer.Option(help="Where it is kept up to where the log is reported. Default: beside the log, .<LOG>.reported"),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End at the end of the log instead of waiting for more.")
    ] = False,
) -> None:
    """Report what a gateway answered: status, latency and bytes, from its access log.

    Follows the log over rotations, and goes on where it ended. While the service is away, what is in the log waits there.
    Lines are JSON objects as the guides configure them for Nginx (docs/how-to/put-nginx-in-front.md) and Envoy
    (docs/how-to/put-envoy-in-front.md): {"decision": "dec_…", "status": 200, "seconds": 0.017, "bytes": 512}.

    SIGTERM and Ctrl-C let it send what there is, for 10 seconds at most.

    Examples:

    APISHIELD_API_KEY=sk_live_... apishield report-log /var/log/nginx/apishield.log

    apishield report-log --url https://shield.example.com --api-key-file /etc/apishield/key /var/log/envoy/apishield.log

    tail -F -n 0 access.log | apishield report-log --stdin
    """
    if stdin == (log_file is not None):
        raise ConfigurationError("Give either an access log or --stdin.")
    key = _api_key(api_key_file)

    import asyncio  # noqa: PLC0415  wrong settings are told before anything is loaded
    import logging  # noqa: PLC0415

    from apishield.integrations.access_log.sources import LineReader  # noqa: PLC0415

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    reader = LineReader()
    try:
        source = _pipe(reader) if log_file is None else _file(log_file, position_file, reader, once=once)
        reporter = asyncio.run(_report(url, key, source, reader))
    except (PermissionError, IsADirectoryError) as error:
        raise ConfigurationError(f"{error.filename or log_file} can't be read: {error.strerror}.") from error
    say(reporter.summary())
    if reporter.unsent and stdin:
        raise typer.Exit(EXIT_FAILED)


async def _report(url: str, key: str, source: Source, reader: LineReader) -> LogReporter:
    from apishield.cli.stopping import run_until_stopped  # noqa: PLC0415
    from apishield.client.clients import AsyncAPIShield  # noqa: PLC0415
    from apishield.integrations.access_log.reporter import LogReporter  # noqa: PLC0415
    from apishield.integrations.access_log.sources import PipeSource  # noqa: PLC0415

    async with AsyncAPIShield(url, api_key=key, retries=0) as client:
        reporter = LogReporter(client, source, reader)
        if isinstance(source, PipeSource):
            source.start()
        await run_until_stopped(reporter.run, with_parent=False)
    return reporter


def _pipe(reader: LineReader) -> Source:
    from apishield.integrations.access_log.sources import PipeSource  # noqa: PLC0415

    return PipeSource(sys.stdin.fileno(), reader)


def _file(path: Path, position_file: Path | None, reader: LineReader, *, once: bool) -> Source:
    from apishield.integrations.access_log.positions import PositionFile  # noqa: PLC0415
    from apishield.integrations.access_log.sources import FileSource  # noqa: PLC0415

    positions = PositionFile(position_file or path.with_name(f".{path.name}.reported"))
    if not os.access(positions.path.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{positions.path.parent} can't be written to; say with --position-file where the position shall be kept."
        )
    return FileSource(path, positions, reader, once=once)


def _api_key(path: Path | None) -> str:
    """The service key. It is no option of its own: arguments are shown to everybody on the machine."""
    try:
        key = os.environ.get(_KEY, "") if path is None else path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}.") from error
    if not key:
        raise ConfigurationError(f"The service key is missing: set {_KEY}, or give --api-key-file.")
    return key
