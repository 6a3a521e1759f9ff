"""What a person reads when the service has started."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from apishield import __version__
from apishield.errors import APIShieldError
from apishield.redaction import redact_url
from apishield.settings import Settings
from apishield.stores.data_directory import DataDirectory

TOKEN_FILE = "operator-token"  # noqa: S105  a file's name
_CURL = """\
curl -X POST {url}/v1/tenants -H "Content-Type: application/json" {token}-d '{{"name": "My App", "plan": "starter"}}'"""


@dataclass(frozen=True, slots=True)
class Banner:
    """The lines of a start. ``operator`` is the line about the operator's token."""

    settings: Settings
    port: int
    operator: str

    @property
    def url(self) -> str:
        """Where this machine reaches the service."""
        host = self.settings.host
        if self.settings.loopback or host in {"0.0.0.0", "::"}:  # noqa: S104  compared, not bound
            host = "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def lines(self) -> list[tuple[str, str]]:
        """Names and values."""
        settings = self.settings
        counters = redact_url(settings.redis_url) if settings.redis_url else "this process's memory"
        return [
            ("API", self.url),
            ("Docs", f"{self.url}/docs"),
            ("Data", str(settings.data_dir) if settings.sqlite else redact_url(settings.effective_database_url)),
            ("Counters", counters),
            ("Sign-up", self._signup()),
            ("Operator", self.operator),
        ]

    def curl(self) -> str:
        """The first thing to try."""
        token = "" if self.settings.signup_open else '-H "Authorization: Bearer $APISHIELD_OPERATOR_TOKEN" '
        return _CURL.format(url=self.url, token=token)

    def _signup(self) -> str:
        if not self.settings.signup_open:
            return "closed: tenants are made with the operator's token"
        if self.settings.loopback and self.settings.signup == "auto":
            return "open to programs on this machine"
        return "OPEN TO ANYBODY who reaches this address (APISHIELD_SIGNUP=open)"

    def print(self) -> None:
        """Writes it to standard output."""
        console = Console(soft_wrap=True, highlight=False)
        text = Text().append(f"\n  APIShield {__version__}\n\n", style="bold")
        for name, value in self.lines():
            text.append(f"  {name:<10}", style="dim").append(f"{value}\n")
        text.append("\n  Make a tenant:\n\n").append(f"  {self.curl()}\n", style="cyan")
        console.print(text)
        sys.stdout.flush()


def operator_line(settings: Settings, made: str | None) -> str:
    """Says where the operator's token is. One made just now is shown on a terminal only; else it goes into a file."""
    if settings.operator_token is not None:
        return "the token of APISHIELD_OPERATOR_TOKEN"
    if made is None:
        return "the token made at the first start (lost? `apishield operator-token renew`)"
    if sys.stdout.isatty():
        return f"{made}  (shown only now: keep it)"
    return f"its token is in {keep_privately(settings, made)}"


def keep_privately(settings: Settings, token: str) -> str:
    """Writes the token to a file that only its owner reads; returns the path. Raises ``APIShieldError`` where it can't."""
    directory = DataDirectory(settings.data_dir)
    path = directory.path / TOKEN_FILE
    try:
        path.unlink(missing_ok=True)  # of a database that is no more
        return str(directory.write_private(TOKEN_FILE, token))
    except OSError as error:
        raise APIShieldError(
            f"The operator's token could not be written to '{path}' ({error.strerror}). Mend that, then make another: "
            "apishield operator-token renew"
        ) from None
