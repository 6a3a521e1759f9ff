"""The OpenAPI document without a running service."""

from __future__ import annotations

import secrets as system_random
from typing import Any

from apishield.api.asgi import create_asgi
from apishield.bootstrap import Runtime, open_database, system_clock
from apishield.services.secrets import Secrets
from apishield.settings import Settings


def openapi_document() -> dict[str, Any]:
    """The document of this version; connects to nothing and makes no file."""
    settings, secrets = Settings(), Secrets.parse(Secrets.generate())
    database = open_database(settings, secrets, system_clock)
    runtime = Runtime(settings, secrets, database, frozenset(), system_clock, system_random.token_bytes)
    return create_asgi(runtime).control_plane.openapi()
