"""What an operator can set: every variable with its meaning, default, example and rule.

Owns: checks of one value and of several together. Does not own: where values come from (``environment``), what
they do, how they are listed (``cli.config``), the files of the data directory.

``docs/reference/settings.md`` and ``.env.example`` are generated from this module (``apishield config docs``).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from apishield.core.key_manager.format import SecretKind, inspect
from apishield.core.rate_limiter.parse import parse_limit
from apishield.errors import ConfigurationError
from apishield.redaction import redact_url

DATABASE_SCHEMES = ("postgresql", "sqlite")
REDIS_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel", "unix")


@dataclass(frozen=True, slots=True)
class Variable:
    """How a field is set from outside. ``rule`` completes the sentence "… must be"."""

    name: str
    group: str
    rule: str
    example: str
    secret: bool = False


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaList = Annotated[tuple[str, ...], BeforeValidator(_split)]
_SERVER, _STORES, _ACCESS, _LOGS = "Server", "Database and counters", "Secrets and access", "Logs"
_LEDGER = "Ledger"
_KAFKA = "Kafka"


class Settings(BaseModel):
    """The settings of one node. Constructing it reads nothing from outside; ``environment.load`` does."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    host: Annotated[str, Variable("APISHIELD_HOST", _SERVER, "an IP address or a host name", "0.0.0.0")] = Field(  # noqa: S104  an example
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. Anything but a loopback address closes the open sign-up.",
    )
    port: Annotated[
        int, Variable("APISHIELD_PORT", _SERVER, "an integer from 0 to 65535 (0 takes a free one)", "8080")
    ] = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    workers: Annotated[int, Variable("APISHIELD_WORKERS", _SERVER, "an integer from 1 to 64", "4")] = Field(
        1, ge=1, le=64, description="Processes that answer requests. More than one needs `REDIS_URL`."
    )
    data_dir: Annotated[Path, Variable("APISHIELD_DATA_DIR", _SERVER, "a directory", "/var/lib/apishield")] = Field(
        Path("data"), description="Directory of the SQLite database, the generated secret and other files of this node."
    )
    shutdown_timeout_seconds: Annotated[
        int, Variable("APISHIELD_SHUTDOWN_TIMEOUT_SECONDS", _SERVER, "an integer from 0 to 300", "30")
    ] = Field(
        10, ge=0, le=300, description="How long requests in flight may take to finish once the service is told to stop."
    )
    startup_timeout_seconds: Annotated[
        int, Variable("APISHIELD_STARTUP_TIMEOUT_SECONDS", _SERVER, "an integer from 0 to 600", "60")
    ] = Field(30, ge=0, le=600, description="How long a start waits for a database that can't be reached yet.")
    rate_limit_headers: Annotated[
        Literal["both", "draft", "legacy", "none"],
        Variable("APISHIELD_RATE_LIMIT_HEADERS", _SERVER, "both, draft, legacy or none", "draft"),
    ] = Field(
        "both",
        description=(
            "Which headers tell callers where they stand: `draft` is `RateLimit-Policy` and `RateLimit` (IETF draft 10), "
            "`legacy` the three `X-RateLimit-…`. `Retry-After` goes with every 429."
        ),
    )

    database_url: Annotated[
        str | None,
        Variable(
            "DATABASE_URL",
            _STORES,
            "postgresql://user:password@host:5432/name (password percent-encoded) or sqlite:///path",
            "postgresql://apishield:password@localhost:5432/apishield",
            secret=True,
        ),
    ] = Field(
        None,
        repr=False,
        description="PostgreSQL 15 or newer, or SQLite. Default: `apishield.db` in the data directory.",
    )
    redis_url: Annotated[
        str | None,
        Variable(
            "REDIS_URL",
            _STORES,
            "redis://host:6379/0, rediss:// for TLS, redis+cluster:// or redis+sentinel://",
            "redis://localhost:6379/0",
            secret=True,
        ),
    ] = Field(
        None,
        repr=False,
        description="Redis 6.2 or newer, with `maxmemory-policy noeviction`. Default: counters in memory.",
    )
    redis_timeout_ms: Annotated[
        int, Variable("APISHIELD_REDIS_TIMEOUT_MS", _STORES, "an integer from 1 to 1000", "100")
    ] = Field(50, ge=1, le=1000, description="How long a check waits for Redis before it is decided without it.")
    snapshot_max_age_seconds: Annotated[
        int, Variable("APISHIELD_SNAPSHOT_MAX_AGE_SECONDS", _STORES, "an integer from 5 to 86400", "600")
    ] = Field(
        300,
        ge=5,
        le=86_400,
        description="How long a node that has lost its database goes on with the keys it knows; then it refuses them.",
    )

    secret: Annotated[
        str | None,
        Variable(
            "APISHIELD_SECRET",
            _ACCESS,
            "what `apishield generate secret` prints: 1:BASE64 (32 bytes); of several versions the newest first",
            "1:…",
            secret=True,
        ),
    ] = Field(
        None,
        repr=False,
        description=(
            "Master secret; hashes and encryption keys derive from it. "
            "Required on PostgreSQL; on SQLite it is made at the first start."
        ),
    )
    operator_token: Annotated[
        str | None,
        Variable(
            "APISHIELD_OPERATOR_TOKEN",
            _ACCESS,
            "what `apishield generate operator-token` prints",
            "aso_…",
            secret=True,
        ),
    ] = Field(None, repr=False, description="The operator's token. Default: one is made at the first start.")
    signup: Annotated[
        Literal["auto", "open", "closed"], Variable("APISHIELD_SIGNUP", _ACCESS, "auto, open or closed", "open")
    ] = Field(
        "auto",
        description=(
            "Whether `POST /v1/tenants` works without a token. "
            "`auto`: only on a loopback address, for callers on this machine."
        ),
    )
    signup_limit: Annotated[
        str, Variable("APISHIELD_SIGNUP_LIMIT", _ACCESS, 'a limit such as "10/hour"', "100/day")
    ] = Field("10/hour", description="How many tenants one address may sign up.")
    trusted_proxies: Annotated[
        CommaList,
        Variable(
            "APISHIELD_TRUSTED_PROXIES", _ACCESS, "addresses or networks, separated by commas", "10.0.0.0/8,192.0.2.7"
        ),
    ] = Field((), description="Proxies whose `X-Forwarded-For` is believed. Default: none.")
    allowed_hosts: Annotated[
        CommaList, Variable("APISHIELD_ALLOWED_HOSTS", _ACCESS, "host names, separated by commas", "limits.internal")
    ] = Field(
        (),
        description="`Host` headers answered on a loopback address, besides localhost and loopback addresses.",
    )

    kafka_bootstrap_servers: Annotated[
        CommaList,
        Variable("KAFKA_BOOTSTRAP_SERVERS", _KAFKA, "host:port, separated by commas", "kafka-1:9092,kafka-2:9092"),
    ] = Field(
        (),
        description="Brokers through which events reach the ledger. Default: none; events go straight to the database.",
    )
    kafka_topic: Annotated[
        str,
        Variable(
            "APISHIELD_KAFKA_TOPIC", _KAFKA, "a topic's name: letters, digits, dots, dashes, underscores", "prod.events"
        ),
    ] = Field(
        "apishield.events",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$",
        description=(
            "Topic of the events, made where it is missing. What the ledger can't read goes to this name with `.dead` "
            "behind it; the consumer group has it with `.ledger`."
        ),
    )
    kafka_partitions: Annotated[
        int, Variable("APISHIELD_KAFKA_PARTITIONS", _KAFKA, "an integer from 1 to 1000", "24")
    ] = Field(
        6,
        ge=1,
        le=1000,
        description="Partitions in use, so the most workers that share the load. Counts at the first start with a topic.",
    )
    kafka_security_protocol: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"],
        Variable("APISHIELD_KAFKA_SECURITY_PROTOCOL", _KAFKA, "plaintext, ssl, sasl_plaintext or sasl_ssl", "sasl_ssl"),
    ] = Field("plaintext", description="How to speak to the brokers.")
    kafka_ca_file: Annotated[
        Path | None, Variable("APISHIELD_KAFKA_CA_FILE", _KAFKA, "a file that can be read", "/etc/ssl/kafka-ca.pem")
    ] = Field(None, description="Certificates (PEM) that sign the brokers'. Default: those of the system.")
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        Variable("APISHIELD_KAFKA_SASL_MECHANISM", _KAFKA, "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", "PLAIN"),
    ] = Field("SCRAM-SHA-512", description="How to sign in, where the security protocol is one of SASL.")
    kafka_sasl_username: Annotated[
        str | None, Variable("APISHIELD_KAFKA_SASL_USERNAME", _KAFKA, "a user's name", "apishield")
    ] = Field(None, description="Who signs in.")
    kafka_sasl_password: Annotated[
        str | None, Variable("APISHIELD_KAFKA_SASL_PASSWORD", _KAFKA, "a password", "…", secret=True)
    ] = Field(None, repr=False, description="The password to sign in with.")

    ledger: Annotated[
        Literal["worker", "inline", "off"], Variable("APISHIELD_LEDGER", _LEDGER, "worker, inline or off", "off")
    ] = Field(
        "worker",
        description=(
            "Who takes this node's events into the ledger. `worker`: a process that `serve` starts and watches. `inline`: "
            "the serving process itself. `off`: nobody here; `apishield worker` must run beside it on the same data directory."
        ),
    )
    spool_bytes: Annotated[
        int,
        Variable("APISHIELD_SPOOL_BYTES", _LEDGER, "an integer from 16777216 (16 MiB) to 1099511627776", "4294967296"),
    ] = Field(
        1024**3,
        ge=16 * 1024**2,
        le=1024**4,
        description=(
            "How much of the disk events may take that are not in the ledger yet. Over 80 % the oldest become counts without "
            "details; counts are not lost."
        ),
    )
    replay_days: Annotated[int, Variable("APISHIELD_REPLAY_DAYS", _LEDGER, "an integer from 0 to 365", "30")] = Field(
        7,
        ge=0,
        le=365,
        description=(
            "How many days single decisions are kept: for receipts, the latest requests, and replays of policies. "
            "0 keeps sums only, and no full address."
        ),
    )

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Variable("APISHIELD_LOG_LEVEL", _LOGS, "debug, info, warning or error", "warning"),
    ] = Field("info", description="The least important lines that are written.")
    log_format: Annotated[
        Literal["auto", "console", "json"], Variable("APISHIELD_LOG_FORMAT", _LOGS, "auto, console or json", "json")
    ] = Field("auto", description="`auto`: for people on a terminal, JSON lines elsewhere.")

    @field_validator("log_level", "log_format", "signup", "ledger", "kafka_security_protocol", mode="before")
    @classmethod
    def _ignore_case(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("data_dir")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()  # so that a later change of the working directory moves nothing

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("postgres://"):  # as some hosts write it
            value = "postgresql://" + value.removeprefix("postgres://")
        return _check_url(value, DATABASE_SCHEMES, needs_path=True)

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: str | None) -> str | None:
        return _check_url(value, REDIS_SCHEMES, needs_path=False)

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _check_brokers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for broker in value:
            address = urlsplit(f"//{broker}")
            if not address.hostname or not address.port or address.username or address.path:
                raise ValueError("not host:port")
        return value

    @field_validator("kafka_sasl_mechanism", mode="before")
    @classmethod
    def _raise_case(cls, value: object) -> object:
        return value.strip().upper() if isinstance(value, str) else value

    @field_validator("kafka_ca_file")
    @classmethod
    def _check_readable(cls, value: Path | None) -> Path | None:
        if value is not None and not os.access(value, os.R_OK):
            raise ValueError("not readable")
        return value

    @field_validator("operator_token")
    @classmethod
    def _check_operator_token(cls, value: str | None) -> str | None:
        if value is not None and inspect(value) != (SecretKind.OPERATOR_TOKEN, True):
            raise ValueError("not an operator's token")
        return value

    @field_validator("signup_limit")
    @classmethod
    def _check_limit(cls, value: str) -> str:
        parse_limit(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _normalise_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(part, strict=False)) for part in value)

    @property
    def sqlite(self) -> bool:
        """Whether the database is a file of this machine."""
        return self.effective_database_url.startswith("sqlite:")

    @property
    def new_sqlite_file(self) -> Path | None:
        """The database's file where there is none yet; ``None`` where it exists, or the database is PostgreSQL."""
        path = Path(self.effective_database_url.removeprefix("sqlite:///"))
        return path if self.sqlite and not path.exists() else None

    @property
    def effective_database_url(self) -> str:
        """The given database, else ``apishield.db`` in the data directory."""
        return self.database_url or f"sqlite:///{self.data_dir / 'apishield.db'}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def signup_open(self) -> bool:
        """Whether a tenant can be made without a token (on a loopback bind: by callers of this machine only)."""
        return self.signup == "open" or (self.signup == "auto" and self.loopback)

    def check(self) -> None:
        """Raises ``ConfigurationError`` where values that are each right don't go together."""
        if not self.sqlite and self.secret is None:
            raise ConfigurationError(
                "APISHIELD_SECRET is not set, and DATABASE_URL is PostgreSQL, where every node needs the same one. "
                "Make one with `apishield generate secret` and set it, or APISHIELD_SECRET_FILE, on every node."
            )
        if self.workers > 1 and self.redis_url is None:
            raise ConfigurationError(
                f"APISHIELD_WORKERS is {self.workers} and REDIS_URL is not set: each worker would count by itself "
                "and admit the whole limit. Set REDIS_URL, or APISHIELD_WORKERS=1."
            )
        if self.kafka_bootstrap_servers and self.ledger == "inline":
            raise ConfigurationError(
                "APISHIELD_LEDGER is 'inline', and KAFKA_BOOTSTRAP_SERVERS is set: the serving process itself publishes "
                "nothing. Set APISHIELD_LEDGER=worker, or off and run `apishield worker` beside it."
            )
        signs_in = self.kafka_security_protocol.startswith("sasl")
        if self.kafka_bootstrap_servers and signs_in and not (self.kafka_sasl_username and self.kafka_sasl_password):
            raise ConfigurationError(
                f"APISHIELD_KAFKA_SECURITY_PROTOCOL is '{self.kafka_security_protocol}', which signs in. "
                "Set APISHIELD_KAFKA_SASL_USERNAME and APISHIELD_KAFKA_SASL_PASSWORD."
            )
        if self.kafka_bootstrap_servers and self.kafka_sasl_password and not signs_in:
            raise ConfigurationError(
                f"APISHIELD_KAFKA_SASL_PASSWORD is set, and APISHIELD_KAFKA_SECURITY_PROTOCOL is "
                f"'{self.kafka_security_protocol}', which doesn't sign in. Set it to sasl_ssl, or remove the password."
            )


def variables() -> Iterator[tuple[str, FieldInfo, Variable]]:
    """Every setting: field name, the field, its variable; in the order of the documentation."""
    for name, info in Settings.model_fields.items():
        yield name, info, next(item for item in info.metadata if isinstance(item, Variable))


def shown(variable: Variable, value: Any) -> str:
    """A value as it may be shown to people: secrets hidden, passwords in URLs masked."""
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if variable.name.endswith("_URL"):
        return f"'{redact_url(text)}'"
    return "(hidden)" if variable.secret else f"'{text}'"


def _check_url(value: str | None, schemes: tuple[str, ...], *, needs_path: bool) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in schemes or (needs_path and len(parts.path) < 2) or parts.path == "/:memory:":
        raise ValueError("not a usable URL")
    if parts.scheme in {"sqlite", "unix"}:
        return value
    for host in parts.netloc.rpartition("@")[2].split(","):  # several where the driver knows fail-over or Sentinel
        address = urlsplit(f"//{host}")
        if not address.hostname or address.port == 0:  # ``port`` raises ValueError where it is no port
            raise ValueError("not a usable host")
    return value
