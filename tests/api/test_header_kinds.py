"""``APISHIELD_RATE_LIMIT_HEADERS``: the same headers from a check and from every gateway, and never without Retry-After."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checks import make_key, sliding
from tests.support.clock import ManualClock
from tests.support.node import running_node

DRAFT = {"ratelimit", "ratelimit-policy"}
LEGACY = {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}


@pytest.mark.parametrize(
    ("kinds", "expected"), [("both", DRAFT | LEGACY), ("draft", DRAFT), ("legacy", LEGACY), ("none", set())]
)
async def test_callers_get_the_kinds_of_headers_that_were_chosen(
    tmp_path: Path, clock: ManualClock, kinds: str, expected: set[str]
) -> None:
    async with running_node(tmp_path, clock, rate_limit_headers=kinds) as node:
        tenant = await node.tenant()
        _, key = await make_key(tenant, rate_limits=(sliding(1),))
        sent = {"X-APIShield-Token": tenant.service_key, "X-API-Key": key}
        original = {"X-Original-Method": "GET", "X-Original-URI": "/orders"}
        for has_room in (True, False):
            decision = await tenant.check(api_key=key)
            by_nginx = await node.client.get("/gateway/nginx", headers=sent | original)
            by_envoy = await node.client.get("/gateway/envoy/orders", headers=sent)
            for headers in (decision["headers"], by_nginx.headers, by_envoy.headers):
                names = {name.lower() for name in headers}
                assert {name for name in names if "ratelimit" in name} == expected
                assert "x-apishield-decision" in names
                assert ("retry-after" in names) == (headers is not decision["headers"] or not has_room)
