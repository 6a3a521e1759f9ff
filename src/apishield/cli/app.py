"""All commands, and what becomes of what they raise."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from apishield import __version__
from apishield.cli import (
    audit,
    config,
    conformance,
    doctor,
    endpoints,
    generate,
    keys,
    operator,
    policies,
    reconcile,
    report_log,
    serve,
    tenants,
    worker,
)
from apishield.cli.output import EXIT_CONFIGURATION, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, complain, out
from apishield.errors import APIShieldError, ConfigurationError

app = typer.Typer(
    name="apishield",
    help="Rate limiting, API keys and abuse protection, as one service that you host yourself.",
    epilog=(
        "Settings come from the environment and from .env; see docs/reference/settings.md.\n\n"
        "Exit codes: 0 done; 1 failed; 2 wrong usage or setting; 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
app.command("doctor")(doctor.doctor)
app.command("reconcile")(reconcile.reconcile)
app.command("report-log")(report_log.report_log)
app.command("conformance")(conformance.conformance)
app.add_typer(config.app, name="config")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(policies.app, name="policies")
app.add_typer(audit.app, name="audit")
app.add_typer(operator.app, name="operator-token")
app.add_typer(generate.app, name="generate")


def _print_version(asked: bool) -> None:
    if asked:
        out.print(__version__, markup=False)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """What goes before a command."""


@app.command()
def version() -> None:
    """Print the version."""
    _print_version(asked=True)


@app.command()
def openapi(
    indent: Annotated[int, typer.Option(help="Spaces of indentation; 0 for one line.", min=0, max=8)] = 2,
) -> None:
    """Print the OpenAPI document of this version.

    Example: apishield openapi > openapi.json
    """
    import asyncio  # noqa: PLC0415  as all imports of the service: other commands start faster without it
    import json  # noqa: PLC0415

    from apishield.cli.document import openapi_document  # noqa: PLC0415
    from apishield.telemetry import configure_logging  # noqa: PLC0415

    configure_logging("error")
    print(json.dumps(asyncio.run(openapi_document()), indent=indent or None, ensure_ascii=False))


def run() -> int:
    """Runs the command line; returns the exit code. An error that was foreseen is one line, without a traceback."""
    try:
        app(prog_name="apishield")
    except ConfigurationError as error:
        complain(str(error))
        return EXIT_CONFIGURATION
    except APIShieldError as error:
        complain(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise
        complain(f"{error.filename or 'A file'} can't be written: {error.strerror}. Free space or mend permissions.")
        return EXIT_FAILED
    return EXIT_OK
