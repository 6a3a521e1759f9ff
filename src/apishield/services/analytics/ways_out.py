"""How to get out of a refusal: for each code, what whoever was refused can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_WAYS: Final[Mapping[str, str]] = {
    "bad_request": "The request's path or address could not be read. Send it without encoded slashes, dot segments or NUL.",
    "blocked": "The address, network or key is on the blocklist. Ask whoever runs this API to lift the block.",
    "abuse_blocked": "The request looked like an attack. If it was none, show this receipt to whoever runs this API.",
    "key_missing": "Send an API key: 'X-API-Key: sk_…', or 'Authorization: Bearer sk_…'.",
    "key_malformed": "The key is mistyped or cut off: its check digits don't fit. Copy it again, whole.",
    "key_unknown": "No such key is known here. Look whether it is this API's, and for the right environment.",
    "key_wrong_kind": "The key is for servers that check other keys, not for calling this API. Ask for a caller's key.",
    "key_revoked": "The key was ended for good. Ask for a new one.",
    "key_expired": "The key's time is over. Ask for a new one, or for a later end.",
    "key_disabled": "The key is switched off for now. Ask whoever gave it to you to switch it on.",
    "scope_missing": "The key may not do this. Ask for a key, or for a change of this one, with the scope that is named.",
    "ip_not_allowed": "The key may be used from certain addresses only. Call from one of them, or have this one added.",
    "rate_limited": "Wait until the time that is named, then go on more slowly; 'RateLimit' headers tell how much is left.",
    "quota_exceeded": "The quota of this period is used up. Wait for the next period, or ask for a larger quota.",
    "concurrency_exceeded": "Too many requests were under way at once. Wait for some to end before you send more.",
    "stale": "The service could not look up keys. Nothing is wrong with the request: send it again in a minute.",
    "store_unavailable": "The limits could not be checked. Nothing is wrong with the request: send it again in a minute.",
}


def way_out(code: str) -> str:
    """What to do about a refusal with ``code``."""
    return _WAYS.get(code, "Show this receipt to whoever runs this API.")
