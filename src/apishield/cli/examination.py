"""What ``apishield doctor`` looks at. Each part is examined by itself: one that is down hides no other."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import stat
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from apishield.bootstrap import load_secrets
from apishield.cli.examination_kafka import look_at_kafka
from apishield.cli.examination_spool import look_at_spools
from apishield.cli.start import answer, bind
from apishield.clock import system_clock
from apishield.errors import APIShieldError, ConfigurationError, ProblemError
from apishield.redaction import redact_url
from apishield.services.secret_check import check_secret
from apishield.settings import Settings
from apishield.stores.redis.connection import connect
from apishield.stores.sql.database import Database

Status = Literal["ok", "warn", "fail"]
MIN_POSTGRESQL = 15
MIN_REDIS = (6, 2)
LOW_DISK_BYTES, FULL_DISK_BYTES = 1_000_000_000, 100_000_000
SLOW_REDIS_MS, SLOW_DATABASE_MS = 5.0, 50.0
MAX_CLOCK_SKEW_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
_PROBES = 20


class Finding(msgspec.Struct, frozen=True):
    """One part, how it is, and what to do where it is not well."""

    part: str
    status: Status
    detail: str
    fix: str | None = None


async def examine(settings: Settings) -> list[Finding]:
    """Examines every part that ``settings`` name."""
    findings = [_python(), *_data_directory(settings)]
    spools = look_at_spools(settings)
    if spools is not None:
        findings.append(Finding("spool", *spools))
    if settings.new_sqlite_file is not None:
        findings.append(Finding("database", "ok", "SQLite (the first start makes it)"))
    else:
        findings += [finding async for finding in _database(settings)]
    if settings.redis_url is None:
        findings.append(Finding("counters", "ok", "in memory: for one process on one machine"))
    else:
        findings += [finding async for finding in _redis(settings, settings.redis_url)]
    findings += [Finding(*finding) async for finding in look_at_kafka(settings)]
    findings.append(await asyncio.to_thread(_port, settings))
    return findings


def _python() -> Finding:
    version = f"{platform.python_implementation()} {platform.python_version()}"
    missing = [name for name in ("httptools", "uvloop", "hiredis") if name not in sys.modules and not _importable(name)]
    if missing and sys.platform != "win32":
        return Finding("python", "warn", f"{version}, without {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding("python", "ok", version)


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def _data_directory(settings: Settings) -> Iterator[Finding]:
    path = settings.data_dir
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        yield Finding("data directory", "fail", f"{existing} is not a directory", "Set APISHIELD_DATA_DIR to another.")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = f"chown or chmod {existing}, or set APISHIELD_DATA_DIR to a directory that this user may write."
        yield Finding("data directory", "fail", f"{existing} can't be written", remedy)
    elif existing != path:
        yield Finding("data directory", "ok", f"{path} (the first start makes it)")
    else:
        yield Finding("data directory", "ok", str(path))
    yield from _private_files(path)
    free = shutil.disk_usage(existing).free
    status: Status = "fail" if free < FULL_DISK_BYTES else "warn" if free < LOW_DISK_BYTES else "ok"
    fix = None if status == "ok" else f"Free some space on the disk of {existing}."
    yield Finding("disk", status, f"{free / 1e9:,.1f} GB free", fix)


def _private_files(path: Path) -> Iterator[Finding]:
    for name in ("secret", "operator-token", "apishield.db"):
        file = path / name
        if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield Finding("permissions", "fail", f"{file} can be read by others", f"chmod 600 {file}")


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    url = settings.effective_database_url
    database = Database(url, system_clock)
    try:
        started = time.perf_counter()
        words = await asyncio.wait_for(database.check(), PATIENCE_SECONDS)
        latency_ms = (time.perf_counter() - started) * 1000
        yield _database_version(settings, words, latency_ms)
        yield await _secret(settings, database)
    except ConfigurationError as error:  # reached, but at another version's schema
        yield Finding("database", "warn", str(error), "The next `apishield serve` migrates it; make a backup first.")
    except (APIShieldError, TimeoutError, OSError) as error:
        detail = f"{redact_url(url)}: {_reason(error)}"
        yield Finding("database", "fail", detail, "Start the database, or mend DATABASE_URL.")
    finally:
        await database.close()


def _database_version(settings: Settings, words: str, latency_ms: float) -> Finding:
    detail = f"{words}, {latency_ms:.1f} ms"
    if not settings.sqlite and int(words.split()[1].partition(".")[0]) < MIN_POSTGRESQL:
        return Finding("database", "fail", detail, f"PostgreSQL {MIN_POSTGRESQL} or newer is needed.")
    if latency_ms > SLOW_DATABASE_MS * 10:
        return Finding("database", "warn", detail, "It answers slowly: changes and starts will, too.")
    return Finding("database", "ok", detail)


async def _secret(settings: Settings, database: Database) -> Finding:
    try:
        secrets = load_secrets(settings)
        await check_secret(database, secrets)
    except ConfigurationError as error:
        return Finding("secret", "fail", str(error), "Every node needs the APISHIELD_SECRET of the first start.")
    return Finding("secret", "ok", f"fits the database; version {secrets.current_version} writes")


async def _redis(settings: Settings, url: str) -> AsyncIterator[Finding]:
    client: Any = connect(url)  # redis-py's clients for one server, clusters and sentinels share these commands
    try:
        latencies_ms = []
        for _ in range(_PROBES):
            started = time.perf_counter()
            await asyncio.wait_for(client.ping(), PATIENCE_SECONDS)
            latencies_ms.append((time.perf_counter() - started) * 1000)
        yield await _redis_version(client)
        yield await _redis_policy(client)
        yield _redis_latency(settings, statistics.median(latencies_ms[1:]))
        yield await _redis_scripts(client)
        yield await _redis_clock(client)
    except (Exception, TimeoutError) as error:  # noqa: BLE001  whatever the client raises, the server is not usable
        fix = "Start Redis, or mend REDIS_URL. Until then each node enforces its share of the limits by itself."
        yield Finding("redis", "fail", f"{redact_url(url)}: {_reason(error)}", fix)
    finally:
        await client.aclose()


async def _redis_version(client: Any) -> Finding:
    information = await _one(client.info("server"))
    version = str(information.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_REDIS:
        return Finding("redis", "fail", f"version {version}", "Redis 6.2 or newer is needed.")
    return Finding("redis", "ok", f"version {version}")


async def _redis_policy(client: Any) -> Finding:
    policy = (await _one(client.info("memory"))).get("maxmemory_policy")
    if policy is None:
        return Finding("redis memory", "warn", "maxmemory-policy can't be read", "Make sure that it is noeviction.")
    if policy != "noeviction":
        fix = "Set `maxmemory-policy noeviction`: an evicted counter admits a whole limit again."
        return Finding("redis memory", "fail", f"maxmemory-policy is {policy}", fix)
    return Finding("redis memory", "ok", "maxmemory-policy noeviction")


def _redis_latency(settings: Settings, latency_ms: float) -> Finding:
    detail = f"{latency_ms:.2f} ms a round trip (time-out {settings.redis_timeout_ms} ms)"
    if latency_ms > settings.redis_timeout_ms / 2:
        return Finding("redis latency", "fail", detail, "Most checks will be decided without it; move it nearer.")
    if latency_ms > SLOW_REDIS_MS:
        return Finding("redis latency", "warn", detail, "Each check waits for one round trip: move it nearer.")
    return Finding("redis latency", "ok", detail)


async def _redis_scripts(client: Any) -> Finding:
    answered = await client.eval("return redis.call('TIME')[1]", 0)
    if not int(answered):
        return Finding("redis scripts", "fail", "a script did not answer the time", "Allow EVAL, EVALSHA and TIME.")
    return Finding("redis scripts", "ok", "can be run")


async def _redis_clock(client: Any) -> Finding:
    seconds, microseconds = await _one(client.time())
    skew_seconds = abs(time.time() - (seconds + microseconds / 1_000_000))
    detail = f"{skew_seconds:.2f} s from Redis'"
    if skew_seconds > MAX_CLOCK_SKEW_SECONDS:
        return Finding("clock", "warn", detail, "Limits go by Redis' clock; synchronise both with NTP.")
    return Finding("clock", "ok", detail)


async def _one(answer_: Awaitable[Any]) -> Any:
    """One server's answer, where a cluster gives one for each."""
    found = await answer_
    if isinstance(found, dict) and found and all(isinstance(value, dict | tuple) for value in found.values()):
        return next(iter(found.values()))
    return found


def _port(settings: Settings) -> Finding:
    if settings.port == 0:
        return Finding("port", "ok", "any free one")
    try:
        bind(settings).close()
    except ConfigurationError as error:
        host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104  compared
        if _lives(f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/livez"):
            return Finding("port", "ok", f"{settings.port}: the service runs there")
        return Finding("port", "fail", str(error))
    return Finding("port", "ok", f"{settings.port} is free")


def _lives(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answered:  # noqa: S310  http, made above
            return bool(answered.status == 200 and answered.headers.get("X-Request-Id"))
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE_SECONDS:g} s"
    if isinstance(error, ProblemError) and error.__cause__ is not None:
        return answer(error.__cause__)
    return answer(error)
