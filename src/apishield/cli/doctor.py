"""``apishield doctor``: tries each part that is configured and says how to mend what is wrong. Changes nothing."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.markup import escape

from apishield import environment
from apishield.cli.output import EXIT_FAILED, out, print_json, say, warn

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check each configured part: Python, data directory, database, secret, Redis, Kafka, clock, port.

    Each line is ok, warn or fail; what is not ok says how to mend it. Exits 1 where something fails, 2 where a setting
    is wrong.

    Example: REDIS_URL=redis://localhost:6379/0 apishield doctor
    """
    loaded = environment.load()

    from apishield.cli.examination import examine  # noqa: PLC0415  loads the service's parts
    from apishield.telemetry import configure_logging  # noqa: PLC0415

    configure_logging("error", loaded.settings.log_format)
    for warning in loaded.warnings:
        warn(warning)
    findings = asyncio.run(examine(loaded.settings))
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            colour = _COLOURS[finding.status]
            out.print(f"[{colour}]{finding.status:<5}[/{colour}] {finding.part:<15} {escape(finding.detail)}")
            if finding.fix:
                out.print(f"{'':<22}→ {escape(finding.fix)}")
    failed = sum(finding.status == "fail" for finding in findings)
    if failed:
        say(f"\n{failed} of {len(findings)} checks failed.")
        raise typer.Exit(EXIT_FAILED)
