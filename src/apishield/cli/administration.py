"""The use cases, straight on the database of the settings: for who runs the service and needs no token of it.

Running nodes hear of a change as of any other: within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from apishield import environment
from apishield.bootstrap import load_secrets, open_database
from apishield.clock import system_clock
from apishield.core.records import Actor, Role
from apishield.errors import APIShieldError, ConfigurationError, ProblemError
from apishield.services.audit import AuditService
from apishield.services.endpoints import EndpointService
from apishield.services.keys import KeyService
from apishield.services.policies import PolicyService
from apishield.services.secret_check import check_secret
from apishield.services.secrets import Secrets
from apishield.services.tenants import TenantService
from apishield.settings import Settings
from apishield.stores.sql.database import Database
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.telemetry import configure_logging

ACTOR_ID = "operator:cli"
_PAGE = 100

Result = TypeVar("Result")
Item = TypeVar("Item")


class Administration:
    """What the commands use, as the operator."""

    def __init__(self, database: Database, secrets: Secrets) -> None:
        self.database = database
        self.secrets = secrets
        self.tenants = TenantService(database, secrets)
        self.keys = KeyService(database, secrets)
        self.endpoints = EndpointService(database, secrets)
        self.policies = PolicyService(database, secrets)
        self.audit = AuditService(database, secrets)

    @property
    def operator(self) -> Actor:
        """The operator, in no tenant."""
        return Actor(id=ACTOR_ID, role=Role.OPERATOR, tenant_id=None)

    async def within(self, tenant: str | None) -> Actor:
        """The operator, in ``tenant`` (its id or its name), or in the only one that there is."""
        found = [item async for item in pages(lambda page: self.tenants.list(self.operator, page))]
        living = [item for item in found if item.status != "deleted" and tenant in {None, item.id, item.name}]
        if len(living) == 1:
            return Actor(id=ACTOR_ID, role=Role.OPERATOR, tenant_id=living[0].id)
        if not living:
            what = "There is no tenant" + ("" if tenant is None else f" '{tenant}'")
            raise APIShieldError(f"{what}. Make one: apishield tenants create NAME")
        raise APIShieldError(f"There are {len(living)} such tenants. Choose one by its id: --tenant {living[0].id}")


async def pages(read: Callable[[PageRequest], Coroutine[Any, Any, Page[Item]]]) -> AsyncIterator[Item]:
    """All items of a list, page by page."""
    cursor: str | None = None
    while True:
        page = await read(PageRequest(_PAGE, cursor))
        for item in page.items:
            yield item
        cursor = page.next_cursor
        if cursor is None:
            return


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Administration]:
    """The use cases over the database of ``settings``. Raises ``ConfigurationError`` where it can't be used."""
    secrets = load_secrets(settings)
    database = open_database(settings, secrets, system_clock)
    try:
        await database.check()
        await check_secret(database, secrets)
        yield Administration(database, secrets)
    finally:
        await database.close()


def administer(task: Callable[[Administration], Coroutine[Any, Any, Result]]) -> Result:
    """Runs ``task`` over the database of the settings. A refusal is an error in one line, with the fields at fault."""
    settings = environment.load().settings
    configure_logging("error", settings.log_format)
    missing = settings.new_sqlite_file
    if missing is not None:
        raise ConfigurationError(
            f"There is no database at '{missing}'. Start the service once (apishield serve), or set APISHIELD_DATA_DIR."
        )

    async def run() -> Result:
        async with opened(settings) as administration:
            return await task(administration)

    try:
        return asyncio.run(run())
    except ProblemError as error:
        faults = "".join(f"\n{fault.pointer.strip('/')} {fault.message}" for fault in error.faults)
        raise APIShieldError(error.detail + (faults if len(error.faults) > 1 else "")) from None
