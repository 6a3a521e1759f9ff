"""How commands speak: results to standard output, everything else to standard error, an error in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.measure import Measurement
from rich.table import Table

from apishield.redaction import escape

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130

_WIDER_THAN_ANY_ROW = 1_000_000

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def say(text: str = "") -> None:
    """Writes to people, not to whatever reads the result."""
    err.print(text, markup=False)


def warn(text: str) -> None:
    """Writes one line that something looks wrong."""
    err.print(f"[yellow]warning:[/yellow] {escape_markup(escape(text))}")


def complain(text: str) -> None:
    """Writes what went wrong: a line for each fault."""
    for line in text.splitlines():
        err.print(f"[red]apishield:[/red] {escape_markup(escape(line))}")


def print_json(value: object) -> None:
    """Writes a result for programs."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Writes a result for people, a row a line however wide: an id that was cut is none. ``empty`` where there are no rows."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape_markup(escape(cell)) for cell in row))
    if table.row_count:
        table.width = Measurement.get(out, out.options.update_width(_WIDER_THAN_ANY_ROW), table).maximum
        out.print(table)
    else:
        say(empty)


def moment(at_us: int | None) -> str:
    """A time for people, in UTC; ``never`` for none."""
    return "never" if at_us is None else f"{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y-%m-%d %H:%M:%SZ}"
