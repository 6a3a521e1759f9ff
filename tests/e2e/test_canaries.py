"""What was once a secret of somebody is found in no log, no Redis, no database file and no metric of a running service."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import redis

from tests.support.service import Service

IMPORTED = "canary-of-an-imported-key-0123456789"
STRANGE = "sk_live_canaryCANARYcanaryCANARYcanary000000"


def test_no_secret_is_left_behind_anywhere(start_service: Callable[..., Service], redis_url: str) -> None:
    service = start_service(REDIS_URL=redis_url, APISHIELD_LOG_LEVEL="debug", APISHIELD_LOG_FORMAT="json")
    made = service.sign_up("Canary")
    secrets = {made["token"], made["api_key"]["key"], service.operator_token, IMPORTED, STRANGE}
    owner = {"Authorization": f"Bearer {made['token']}"}
    asking = {"Authorization": f"Bearer {made['api_key']['key']}"}
    with httpx2.Client(base_url=service.url) as client:
        limit = {"strategy": "sliding_window", "requests": 5, "window_seconds": 60}
        body = {"name": "k", "rate_limit": limit, "quota": {"monthly_requests": 9}}
        key = client.post("/v1/keys", json=body, headers={**owner, "Idempotency-Key": "canary-idempotency"}).json()
        rotated = client.post(f"/v1/keys/{key['id']}/rotate", json={"grace_seconds": 60}, headers=owner).json()
        token = client.post("/v1/tokens", json={"name": "t", "role": "viewer"}, headers=owner).json()
        imported = client.post("/v1/keys/import", json={"keys": [{"name": "i", "key": IMPORTED}]}, headers=owner)
        assert imported.status_code == 200, imported.text
        secrets |= {key["key"], rotated["key"], token["token"]}
        for secret in (key["key"], rotated["key"], IMPORTED, STRANGE):
            question = {"api_key": secret, "ip": "203.0.113.7", "method": "GET", "path": "/orders", "reserve": True}
            decision = client.post("/v1/check", json=question, headers=asking).json()
            assert decision["allowed"] is (secret != STRANGE)
            client.post(
                "/v1/check", json={"path": 7, "api_key": secret}, headers=asking
            )  # refused: it must not be quoted
            client.post("/v1/check", json={"path": f"/{secret}/../x"}, headers=asking)
            client.get(f"/v1/keys?token={secret}", headers=owner)
            client.get(f"/v1/{secret}", headers=owner)
            client.get("/v1/keys", headers={"Authorization": f"Bearer {secret}"})
            client.get("/gateway/nginx", headers={"X-APIShield-Token": secret})
        metrics = client.get("/metrics").text
    with redis.Redis.from_url(redis_url) as store:
        kept = [name + b" " + store.dump(name) for name in store.scan_iter("*")]
    assert kept  # counters, and the records of the reservations
    service.terminate()
    files = [
        path.read_bytes() for path in service.data_dir.rglob("*") if path.is_file() and path.name != "operator-token"
    ]
    places = {"log": [service.log.encode()], "metrics": [metrics.encode()], "redis": kept, "files": files}
    found = [
        (place, secret[:12])
        for place, texts in places.items()
        for secret in secrets
        for text in texts
        if secret.encode() in text
    ]
    assert found == []
