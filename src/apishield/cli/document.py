"""The OpenAPI document without a running service."""

from __future__ import annotations

import secrets as system_random

import httpx2

from apishield.api.asgi import create_asgi
from apishield.bootstrap import Runtime, open_database
from apishield.clock import system_clock
from apishield.services.secrets import Secrets
from apishield.settings import Settings


async def openapi_document() -> object:
    """The document of this version, as the service would answer it; connects to nothing and makes no file."""
    settings, secrets = Settings(), Secrets.parse(Secrets.generate())
    database = open_database(settings, secrets, system_clock)
    runtime = Runtime(settings, secrets, database, frozenset(), system_clock, system_random.token_bytes)
    transport = httpx2.ASGITransport(create_asgi(runtime))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/openapi.json")
    document: object = answer.raise_for_status().json()
    return document
