"""``apishield worker``: takes events into the ledger, until told to stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from apishield import environment
from apishield.cli.output import warn


def worker(
    data_dir: Annotated[
        Path | None, typer.Option(help="Data directory of the node to drain; sets APISHIELD_DATA_DIR.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port for Prometheus to scrape; 0 takes a free one. Default: none."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address for it. From other machines it needs the operator's token.")
    ] = "127.0.0.1",
    child: Annotated[bool, typer.Option("--child", hidden=True, help="Started by serve; ends with it.")] = False,
) -> None:
    """Take events into the ledger: those that `serve` has written to its data directory, and those of Kafka's topic.

    `apishield serve` starts one by itself. Run more where KAFKA_BOOTSTRAP_SERVERS is set, on any machine, up to as many as
    there are partitions; or one beside `serve`, on the same data directory, where APISHIELD_LEDGER is off.

    Any of them may be killed at any time: what it was taking is taken by the next, once. SIGTERM and Ctrl-C let it take what
    is left, for APISHIELD_SHUTDOWN_TIMEOUT_SECONDS at most.

    Examples:

    APISHIELD_LEDGER=off apishield serve & apishield worker

    DATABASE_URL=postgresql://user:password@db:5432/apishield KAFKA_BOOTSTRAP_SERVERS=kafka:9092 apishield worker
    """
    if data_dir is not None:
        os.environ["APISHIELD_DATA_DIR"] = str(data_dir)
    loaded = environment.load()

    import asyncio  # noqa: PLC0415  wrong settings are told before the service's parts are loaded

    from apishield.cli.stopping import run_until_stopped  # noqa: PLC0415
    from apishield.telemetry import configure_logging  # noqa: PLC0415
    from apishield.workers.process import WorkerProcess  # noqa: PLC0415

    settings = loaded.settings
    if not child:  # ``serve`` has said it
        for warning in loaded.warnings:
            warn(warning)
    configure_logging(settings.log_level, settings.log_format)
    metrics_at = None if metrics_port is None else (metrics_host, metrics_port)
    process = WorkerProcess(settings, beside_service=child, metrics_at=metrics_at)
    asyncio.run(run_until_stopped(process.run, with_parent=child))
