"""Existing keys, taken over in clear or by their hash: each item stands for itself."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from tests.api.support import Caller, Tenant

LEGACY = "legacy-key-of-another-system-0001"


async def code(tenant: Tenant, secret: str) -> str:
    asker = Caller(tenant.client, tenant.service_key)
    decision = await asker.ok("POST", "/v1/check", {"api_key": secret, "method": "GET", "path": "/"})
    return str(decision["code"])


async def test_a_key_in_clear_and_one_by_its_hash_work_as_they_did(alice: Tenant) -> None:
    by_hash = "hashed-key-of-another-system-0002"
    answer = await alice.ok(
        "POST",
        "/v1/keys/import",
        {
            "keys": [
                {"name": "clear", "key": LEGACY, "rate_limit": "1/minute"},
                {"name": "hashed", "sha256": sha256(by_hash.encode()).hexdigest()},
            ]
        },
    )
    assert (answer["imported"], answer["failed"]) == (2, 0)
    assert [await code(alice, LEGACY), await code(alice, LEGACY)] == ["ok", "rate_limited"]
    assert await code(alice, by_hash) == "ok"
    assert LEGACY not in (await alice.ask("GET", "/v1/keys")).text


BAD: dict[str, dict[str, Any]] = {
    "too short": {"key": "short"},
    "neither key nor hash": {},
    "key and hash": {"key": LEGACY, "sha256": "a" * 64},
    "no hash": {"sha256": "xyz"},
    "a blank name": {"name": " ", "key": LEGACY},
    "over": {"key": LEGACY, "expires_at": "2020-01-01T00:00:00Z"},
    "a limit that is none": {"key": LEGACY, "rate_limit": "banana"},
    "a limit twice": {"key": LEGACY, "rate_limit": "1/minute", "rate_limits": []},
    "an unknown field": {"key": LEGACY, "owner": "me"},
    "a service key": {"key": LEGACY, "kind": "service"},
    "another type": {"key": 1},
}


@pytest.mark.parametrize("item", BAD.values(), ids=BAD.keys())
async def test_a_bad_item_spoils_only_itself(alice: Tenant, item: dict[str, Any]) -> None:
    answer = await alice.ok(
        "POST", "/v1/keys/import", {"keys": [{"name": "bad", **item}, {"name": "good", "key": "g" * 24}]}
    )
    assert (answer["imported"], answer["failed"]) == (1, 1)
    bad, good = answer["results"]
    assert (bad["index"], bad["id"]) == (0, None)
    assert bad["errors"]
    assert good["id"].startswith("key_")


async def test_what_can_not_be_read_is_told_by_item_and_field_without_its_secret(alice: Tenant) -> None:
    keys: list[Any] = [
        {"name": "a", "key": LEGACY, "rate_limits": ["1/minute", "banana"]},
        "no object",
        {"key": LEGACY, "owner": "me"},
        {"name": "b", "key": LEGACY * 20},
        {"name": "good", "key": LEGACY},
    ]
    answer = await alice.ask("POST", "/v1/keys/import", {"keys": keys})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    pointers = [sorted(error["pointer"] for error in result["errors"]) for result in results]
    assert pointers == [["/rate_limits/1"], [""], ["/name", "/owner"], ["/key"], []]
    assert LEGACY not in answer.text


async def test_an_import_of_nothing_that_can_be_read_still_says_why(alice: Tenant) -> None:
    answer = await alice.ok("POST", "/v1/keys/import", {"keys": [{"name": "a"}, {}, None]})
    assert (answer["imported"], answer["failed"]) == (0, 3)
    assert all(result["errors"] for result in answer["results"])


async def test_a_key_is_unique_within_the_tenant_and_not_beyond(alice: Tenant, bob: Tenant) -> None:
    item = {"keys": [{"name": "k", "key": LEGACY}]}
    assert (await alice.ok("POST", "/v1/keys/import", item))["imported"] == 1
    assert (await alice.ok("POST", "/v1/keys/import", item))["imported"] == 0
    assert (await bob.ok("POST", "/v1/keys/import", item))["imported"] == 1


async def test_of_a_key_that_an_import_names_twice_neither_is_taken_since_which_is_meant_is_unknown(
    alice: Tenant,
) -> None:
    twice = {"keys": [{"name": "one", "key": LEGACY}, {"name": "two", "key": LEGACY}]}
    assert (await alice.ok("POST", "/v1/keys/import", twice))["imported"] == 0


@pytest.mark.parametrize("number", [0, 1001])
async def test_an_import_has_1_to_1000_items(alice: Tenant, number: int) -> None:
    keys = [{"name": "k", "key": f"key-of-another-system-{n:06}"} for n in range(number)]
    await alice.problem(422, "validation_failed", "POST", "/v1/keys/import", {"keys": keys})


async def test_a_thousand_at_once_all_work(alice: Tenant) -> None:
    keys = [{"name": "k", "key": f"key-of-another-system-{n:06}"} for n in range(1000)]
    assert (await alice.ok("POST", "/v1/keys/import", {"keys": keys}))["imported"] == 1000
    assert await code(alice, "key-of-another-system-000999") == "ok"
