"""The client's calls for replays: what is asked, how it is sent."""

from __future__ import annotations

import msgspec

from apishield.client import calls


def test_only_what_is_given_is_sent() -> None:
    call = calls.replay_policy("now-7d", limit="30/minute", per=("ip",))
    assert call.body is not None
    assert (call.method, call.path) == ("POST", "/v1/policies/replay")
    assert msgspec.json.decode(call.body) == {"from": "now-7d", "to": "now", "limit": "30/minute", "per": ["ip"]}
    assert call.repeatable
    assert call.idempotency_key


def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    assert calls.get_replay("rpl_1/../../keys").path == "/v1/policies/replay/rpl_1%2F..%2F..%2Fkeys"
