"""Units are named as limits name them, and there are no more than anybody counts: they become series that are kept for good."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.checks import make_key, node, tenant  # noqa: F401
from tests.support.node import Tenant

WRONG = [
    {"a\u0000b": 1},
    {"tokens\n": 1},
    {"Tokens": 1},
    {"": 1},
    {"t" * 33: 1},
    {f"unit_{number}": 1 for number in range(17)},
]


@pytest.mark.parametrize("cost", WRONG, ids=["nul", "line end", "capital", "empty", "long", "too many"])
async def test_a_check_and_a_report_refuse_units_that_no_limit_can_have(
    tenant: Tenant,  # noqa: F811
    cost: dict[str, Any],
) -> None:
    _, secret = await make_key(tenant)
    refused = await tenant.post("/v1/check", {"api_key": secret, "cost": cost})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    held = await tenant.check(api_key=secret, reserve=True)
    event = {"decision_id": held["decision_id"], "status": 200, "latency_ms": 1, "cost": cost}
    answer = (await tenant.post("/v1/report", {"events": [event]})).json()
    assert (answer["accepted"], [each["code"] for each in answer["rejected"]]) == (0, ["bad_request"])
