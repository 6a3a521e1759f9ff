"""Log lines: structlog's, for people on a terminal and as JSON lines elsewhere.

Lines of the standard library's loggers (uvicorn, SQLAlchemy, Alembic) take the same way. Every value passes ``redaction``:
no credential is written, and no value can fake or hide a line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from apishield.redaction import escape, redact

CONFIDENTIAL_FIELDS = frozenset(
    {"authorization", "proxy_authorization", "cookie", "api_key", "x_api_key", "secret", "token", "password", "pepper"}
)
_LINES_FIELDS = frozenset({"exception", "stack"})


def configure_logging(
    level: str = "info", log_format: Literal["auto", "console", "json"] = "auto", stream: TextIO | None = None
) -> None:
    """Sends all log lines of this process to ``stream`` (standard error by default)."""
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _protect,
    ]
    console = log_format == "console" or (log_format == "auto" and terminal)
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal, pad_event_to=0, timestamp_key="time")
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False, sort_keys=False)
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_drop_color_message, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _put_first, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("alembic", "sqlalchemy", "asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # uvicorn writes an access line wherever a handler would take it; ours are metrics and events.
        logger.propagate = name != "uvicorn.access"
        # Starting and stopping we say ourselves, and a warning for each malformed request would let strangers fill disks.
        logger.setLevel(root.level if root.level <= logging.DEBUG else logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _drop_color_message(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn says everything twice, once with ANSI codes
    return event


def _protect(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Takes credentials and control characters out of every value of a log line."""
    for name, value in list(event.items()):
        if name.startswith("_"):
            continue  # structlog's own
        if name.lower().replace("-", "_") in CONFIDENTIAL_FIELDS:
            event[name] = "***"
        elif name in _LINES_FIELDS:
            event[name] = "\n".join(escape(redact(line)) for line in str(value).splitlines())
        else:
            event[name] = _safe(value)
    return event


def _put_first(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event first, so that JSON lines can be read, too."""
    return {name: event[name] for name in ("time", "level", "event") if name in event} | dict(event)


def _safe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            _safe(str(name)): "***" if str(name).lower().replace("-", "_") in CONFIDENTIAL_FIELDS else _safe(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(item) for item in value]
    return escape(redact(value if isinstance(value, str) else str(value)))
