"""A node with another master secret than the database was written with does not start."""

from __future__ import annotations

import asyncio

import pytest

from apishield.errors import ConfigurationError
from apishield.services.secret_check import check_secret
from apishield.services.secrets import Secrets
from apishield.stores.sql.database import Database

FIRST, SECOND, THIRD = ("c2VjcmV0" * 8, "bmV3ZXI0" * 8, "dGhpcmQ1" * 8)


def secrets(**versions: str) -> Secrets:
    return Secrets.parse(",".join(f"{name[1:]}:{value}" for name, value in versions.items()))


async def test_the_first_start_is_remembered_and_the_same_secret_is_let_in(database: Database) -> None:
    await asyncio.gather(*(check_secret(database, secrets(v1=FIRST)) for _ in range(3)))
    await check_secret(database, secrets(v1=FIRST))


@pytest.mark.parametrize("wrong", [secrets(v1=SECOND), secrets(v2=SECOND), secrets(v2=SECOND, v1=THIRD)])
async def test_a_wrong_secret_is_stopped_by_the_name_of_its_variable(database: Database, wrong: Secrets) -> None:
    await check_secret(database, secrets(v1=FIRST))
    with pytest.raises(ConfigurationError, match=r"APISHIELD_SECRET is not the one .*versions 1"):
        await check_secret(database, wrong)
    await check_secret(database, secrets(v1=FIRST))


async def test_a_new_version_is_learnt_beside_the_old_and_stays_when_the_old_is_dropped(database: Database) -> None:
    await check_secret(database, secrets(v1=FIRST))
    await check_secret(database, secrets(v2=SECOND, v1=FIRST))
    await check_secret(database, secrets(v2=SECOND))
    with pytest.raises(ConfigurationError):
        await check_secret(database, secrets(v2=THIRD, v1=FIRST))


async def test_of_two_first_starts_at_once_with_different_secrets_one_is_stopped(database: Database) -> None:
    starts = [check_secret(database, secrets(v1=FIRST)), check_secret(database, secrets(v2=SECOND))]
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ConfigurationError", "NoneType"]
