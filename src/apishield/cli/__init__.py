"""The command line: ``apishield``. ``main`` says in one line what to install where the server's parts are missing."""

from __future__ import annotations

import sys

from apishield.errors import MissingExtra


def main() -> None:
    """Runs the command line and exits."""
    try:
        from apishield.cli.app import run  # noqa: PLC0415  what it imports may not be installed

        sys.exit(run())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "apishield":
            raise
        sys.exit(f"apishield: {MissingExtra(f'The service (it needs {error.name})', 'server')}")
    except KeyboardInterrupt:  # while the parts were still being loaded
        sys.exit(130)
