"""A tenant of its own for each seed: keys that are let through, keys that run into their limits, and none at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2

_MONTH_SECONDS = 31 * 86_400


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key, or nobody we know (``key_id`` is empty)."""

    key_id: str
    secret: str
    environment: str = "live"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant and its callers."""

    id: str
    token: str
    service_key: str
    callers: tuple[Caller, ...]


def new_tenant(url: str, name: str) -> Tenant:
    """Makes a tenant by the service's own API."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        made = _post(client, "/v1/tenants", {"name": name, "plan": "starter"})
        client.headers["Authorization"] = f"Bearer {made['token']}"
        customer = _post(client, "/v1/customers", {"name": "A customer"})
        _post(client, "/v1/endpoints", {"method": "*", "path": "/orders/{id}"})
        keys = [
            {
                "customer_id": customer["id"],
                "rate_limits": [_limit("many", 1_000_000)],
            },  # without any, nothing is reserved
            {"rate_limits": [_limit("few", 40)]},
            {"rate_limits": [_limit("tokens", 4_000, unit="tokens")], "quota": {"monthly_requests": 10_000}},
            {"environment": "test", "rate_limits": [_limit("many", 1_000_000)]},
        ]
        callers = [Caller("", ""), Caller("", "sk_live_000000000000000000000000000000000000")]
        for number, key in enumerate(keys):
            made_key = _post(client, "/v1/keys", {"name": f"key {number}", "scopes": ["read", "write"], **key})
            callers.append(Caller(made_key["id"], made_key["key"], made_key["environment"]))
    return Tenant(made["id"], made["token"], made["api_key"]["key"], tuple(callers))


def _limit(name: str, requests: int, **more: str) -> dict[str, Any]:
    return {"name": name, "strategy": "sliding_window", "requests": requests, "window_seconds": _MONTH_SECONDS, **more}


def _post(client: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 201, (path, response.status_code, response.text)
    made: dict[str, Any] = response.json()
    return made
