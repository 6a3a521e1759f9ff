"""Bodies as no client should send them: each a clear 4xx that names the thing, and never a 500."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest

from apishield.api.dataplane.bodies import decode
from apishield.core.decision import CheckRequest
from apishield.errors import ProblemError
from tests.api.support import Service, Tenant

DEEP = b'{"name": "k", "metadata": ' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}"
MALFORMED = {
    "empty": (b"", "empty"),
    "blank": (b"  \n ", "empty"),
    "cut off": (b'{"name": "k"', "column 13"),
    "single quotes": (b"{'name': 'k'}", "column 2"),
    "a trailing comma": (b'{"name": "k",}', "line 1"),
    "two values": (b'{"name": "k"} {"name": "k"}', "Extra data"),
    "NaN": (b'{"name": "k", "metadata": {"a": NaN}}', "NaN"),
    "Infinity": (b'{"name": "k", "metadata": {"a": -Infinity}}', "-Infinity"),
    "a float beyond doubles": (b'{"name": "k", "metadata": {"a": 1e999}}', "1e999"),
    "an integer of 5000 digits": (b'{"name": "k", "metadata": {"a": ' + b"9" * 5000 + b"}}", "digits"),
    "a name twice": (b'{"name": "a", "name": "b"}', '"name" twice'),
    "a byte order mark": (b'\xef\xbb\xbf{"name": "k"}', "byte order mark"),
    "UTF-16": ('{"name": "k"}'.encode("utf-16"), "byte order mark"),
    "invalid UTF-8": (b'{"name": "\xff\xfe"}', "0xff"),
    "an encoded surrogate": (b'{"name": "\xed\xa0\x80"}', "UTF-8"),
    "70 levels": (DEEP, "64 levels"),
    "100,000 levels": (b"[" * 100_000 + b"]" * 100_000, "64 levels"),
    "a raw control character": (b'{"name": "a\x01b"}', "control character"),
}


@pytest.mark.parametrize(("body", "named"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_one_plain_json_value_is_400_and_named(alice: Tenant, body: bytes, named: str) -> None:
    problem = await alice.problem(400, "malformed_json", "POST", "/v1/keys", body)
    assert named in problem["detail"]


UNUSABLE: dict[str, tuple[Any, str]] = {
    "a list": ([], ""),
    "a text": ("k", ""),
    "null": (None, ""),
    "an unknown field": ({"name": "k", "nmae": "k"}, "/nmae"),
    "a missing field": ({}, "/name"),
    "a number for a text": ({"name": 1}, "/name"),
    "null for a text": ({"name": None}, "/name"),
    "an empty name": ({"name": ""}, "/name"),
    "a blank name": ({"name": "   "}, "/name"),
    "a name of 201 characters": ({"name": "k" * 201}, "/name"),
    "NUL in a name": ({"name": "a\0b"}, "/name"),
    "a line break in a name": ({"name": "a\nb"}, "/name"),
    "a lone surrogate": ({"name": "a\ud800"}, "/name"),
    "NUL deep in metadata": ({"name": "k", "metadata": {"a": [{"b": "\0"}]}}, "/metadata/a/0/b"),
    "a lone surrogate in metadata": ({"name": "k", "metadata": {"a": "\udfff"}}, "/metadata/a"),
    "a lone surrogate as a name in metadata": ({"name": "k", "metadata": {"\ud800": 1}}, "/metadata"),
    "a lone surrogate as a name of a lone surrogate": ({"name": "k", "metadata": {"\ud800": "\udfff"}}, "/metadata"),
    "an integer of 65 bits in metadata": ({"name": "k", "metadata": {"a": 2**64}}, "/metadata/a"),
    "metadata over 16 KiB": ({"name": "k", "metadata": {"a": "x" * 17_000}}, "/metadata"),
    "metadata that is a list": ({"name": "k", "metadata": []}, "/metadata"),
    "a text for a boolean": ({"name": "k", "enabled": "true"}, "/enabled"),
    "1 for a boolean": ({"name": "k", "enabled": 1}, "/enabled"),
    "a text for a list": ({"name": "k", "scopes": "read"}, "/scopes"),
    "a number in a list of texts": ({"name": "k", "scopes": ["read", 7]}, "/scopes/1"),
    "a scope with a blank": ({"name": "k", "scopes": ["re ad"]}, "/scopes/0"),
    "a time without an offset": ({"name": "k", "expires_at": "2030-01-01T00:00:00"}, "/expires_at"),
    "a time as a number": ({"name": "k", "expires_at": 1893456000}, "/expires_at"),
    "February 30": ({"name": "k", "expires_at": "2030-02-30T00:00:00Z"}, "/expires_at"),
    "a time that is over": ({"name": "k", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
    "an unknown environment": ({"name": "k", "environment": "prod"}, "/environment"),
    "no address": ({"name": "k", "allowed_ips": ["1.2.3"]}, "/allowed_ips/0"),
    "a CIDR with host bits": ({"name": "k", "allowed_ips": ["10.0.0.1/8"]}, "/allowed_ips/0"),
    "a customer that is not there": ({"name": "k", "customer_id": "cus_x"}, "/customer_id"),
}


@pytest.mark.parametrize(("body", "pointer"), UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_what_a_field_cannot_be_is_422_with_a_pointer_to_it(alice: Tenant, body: Any, pointer: str) -> None:
    sent = json.dumps(body).encode()
    problem = await alice.problem(422, "validation_failed", "POST", "/v1/keys", sent)
    assert pointer in [fault["pointer"] for fault in problem["errors"]]
    assert [key["name"] for key in (await alice.ok("GET", "/v1/keys"))["data"]] == ["First service key"]


LIMITS: dict[str, tuple[Any, str]] = {
    "a window of 0": ({"strategy": "sliding_window", "requests": 1, "window_seconds": 0}, "/window_seconds"),
    "a window of a century": ({"strategy": "fixed_window", "requests": 1, "window_seconds": 10**10}, "/window_seconds"),
    "no requests": ({"strategy": "fixed_window", "requests": 0, "window_seconds": 1}, "/requests"),
    "negative requests": ({"strategy": "fixed_window", "requests": -1, "window_seconds": 1}, "/requests"),
    "more requests than a billion": (
        {"strategy": "fixed_window", "requests": 10**9 + 1, "window_seconds": 1},
        "/requests",
    ),
    "requests of 10^15": ({"strategy": "fixed_window", "requests": 10**15, "window_seconds": 1}, "/requests"),
    "a fraction": ({"strategy": "fixed_window", "requests": 1.5, "window_seconds": 1}, "/requests"),
    "a whole float": ({"strategy": "fixed_window", "requests": 5.0, "window_seconds": 1}, "/requests"),
    "a boolean": ({"strategy": "fixed_window", "requests": True, "window_seconds": 1}, "/requests"),
    "a text for a number": ({"strategy": "fixed_window", "requests": "5", "window_seconds": 1}, "/requests"),
    "an unknown strategy": ({"strategy": "leaky_bucket", "requests": 5, "window_seconds": 1}, "/strategy"),
    "no strategy": ({"requests": 5, "window_seconds": 1}, "/strategy"),
    "a strategy that is a list": ({"strategy": [], "requests": 5, "window_seconds": 1}, "/strategy"),
    "a burst on a window": ({"strategy": "fixed_window", "requests": 5, "window_seconds": 1, "burst": 9}, "/burst"),
    "an unknown field": ({"strategy": "fixed_window", "requests": 5, "window": 1}, "/window"),
    "an unknown mode": (
        {"strategy": "fixed_window", "requests": 5, "window_seconds": 1, "mode": "maybe"},
        "/mode",
    ),
    "a text that is no limit": ("lots", ""),
    "a unit that is none": ("5/fortnight", ""),
    "a calendar unit": ("5/month", ""),
    "a number": (5, ""),
    "a list": (["5/minute"], ""),
}


@pytest.mark.parametrize(("limit", "pointer"), LIMITS.values(), ids=LIMITS.keys())
async def test_a_limit_that_cannot_be_used_is_named(alice: Tenant, limit: Any, pointer: str) -> None:
    problem = await alice.problem(422, "invalid_limit", "POST", "/v1/keys", {"name": "k", "rate_limit": limit})
    assert f"/rate_limit{pointer}" in [fault["pointer"] for fault in problem["errors"]]


async def test_the_detail_of_a_limit_says_field_value_and_fix(alice: Tenant) -> None:
    limit = {"strategy": "sliding_window", "requests": 5, "window_seconds": 0}
    problem = await alice.problem(422, "invalid_limit", "POST", "/v1/keys", {"name": "k", "rate_limit": limit})
    assert problem["detail"] == (
        "rate_limit.window_seconds is 0, which is below 1. "
        "A window lasts 1 second to 31 days; for a longer period use a quota."
    )
    assert problem["errors"] == [{"pointer": "/rate_limit/window_seconds", "message": "0 is below 1"}]


async def test_all_faults_are_told_not_the_first_only(alice: Tenant) -> None:
    problem = await alice.problem(422, "validation_failed", "POST", "/v1/keys", {"nmae": "k", "enabled": "yes"})
    assert {fault["pointer"] for fault in problem["errors"]} == {"/name", "/nmae", "/enabled"}
    assert "2 more in errors" in problem["detail"]


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_that_is_not_announced_as_json_is_415(alice: Tenant, content_type: str) -> None:
    await alice.problem(
        415, "unsupported_media_type", "POST", "/v1/keys", b'{"name": "k"}', headers={"Content-Type": content_type}
    )


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=UTF-8", "application/vnd.x+json"]
)
async def test_json_by_any_of_its_names_is_read(alice: Tenant, content_type: str) -> None:
    await alice.ok("POST", "/v1/keys", b'{"name": "k"}', status=201, headers={"Content-Type": content_type})


async def test_json_in_another_charset_is_415(alice: Tenant) -> None:
    sent = {"Content-Type": "application/json; charset=iso-8859-1"}
    await alice.problem(415, "unsupported_media_type", "POST", "/v1/keys", b'{"name": "k"}', headers=sent)


async def test_text_of_all_the_world_comes_back_as_it_went_in(alice: Tenant) -> None:
    metadata = {"ключ": "値", "emoji": "👩‍👩‍👧", "mixed": [1, -1.5, True, None, {"ä": "ö"}], "big": 2**63 - 1}
    made = await alice.key(name="Ω-Schlüssel 🔑", metadata=metadata)
    shown = await alice.ok("GET", f"/v1/keys/{made['id']}")
    assert (shown["name"], shown["metadata"]) == ("Ω-Schlüssel 🔑", metadata)


async def test_a_body_is_not_read_for_somebody_without_a_token(alice: Tenant) -> None:
    response = await alice.client.post("/v1/keys", content=b"{", headers={"Content-Type": "application/json"})
    assert response.json()["code"] == "token_missing"


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "limit=x", "limit=1.5", "limit=1&limit=2"),
        *("cursor=%00", "status=gone", "statsu=active", "q=", "q=%00", "=", "%FF=%FF"),
    ],
)
async def test_a_query_that_cannot_be_used_is_422(alice: Tenant, query: str) -> None:
    response = await alice.ask("GET", f"/v1/keys?{query}")
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["pointer"].startswith("?")


@pytest.mark.parametrize("path", ["/v1/keys/nope", "/v1/keys/key_%00", "/v1/keys/key_" + "a" * 5000, "/v1/keys/tok_x"])
async def test_an_id_that_never_was_one_is_404_without_a_look_into_the_database(
    service: Service, alice: Tenant, path: str
) -> None:
    await service.runtime.database.close()
    service.runtime.keys.get = None  # type: ignore[method-assign, assignment]
    await alice.problem(404, "not_found", "GET", path)


def test_a_large_body_is_not_looked_through_again_and_again_for_the_name_of_what_is_wrong() -> None:
    """Everybody waits meanwhile: a map of 80,000 entries whose last is wrong took a second."""

    class Counting:
        def __init__(self) -> None:
            self.decodings = 0
            self._decode = msgspec.json.Decoder(CheckRequest).decode

        def decode(self, body: bytes) -> CheckRequest:
            self.decodings += 1
            return self._decode(body)

    def named(units: int) -> tuple[str, int]:
        cost = {f"u{number}": 1 for number in range(units)} | {"bad": -1}
        counting = Counting()
        with pytest.raises(ProblemError) as raised:
            decode(cast(Any, counting), msgspec.json.encode({"cost": cost}))
        (fault,) = raised.value.faults
        return fault.pointer, counting.decodings

    assert named(10)[0] == "/cost/bad"
    assert named(80_000) == ("/cost", 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/keys", {"name": "k", "SECRET": 1}),
        ("/v1/check", {"attributes": {"SECRET": 1}}),
        ("/v1/check", {"cost": {"SECRET": -1}}),
        ("/v1/check", {"SECRET": 1}),
        ("/v1/decisions/SECRET/release", {}),
        ("/v1/SECRET", {}),
    ],
)
async def test_a_credential_in_the_wrong_place_is_not_shown_again(
    service: Service, alice: Tenant, path: str, body: dict[str, Any]
) -> None:
    content = json.dumps(body).replace("SECRET", alice.secret)
    answer = await service.client.post(
        path.replace("SECRET", alice.secret),
        content=content,
        headers={"Authorization": f"Bearer {alice.secret}", "Content-Type": "application/json"},
    )
    assert 400 <= answer.status_code < 500
    assert alice.secret[:20] not in answer.text
    assert "ast_" in answer.text
