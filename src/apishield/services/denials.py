"""Why a check is refused, in words for whoever sent the request: what happened, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from apishield.core.decision import Denial

MALFORMED: Final = Denial(
    "key_malformed", "This API key is mistyped or cut off: its checksum is wrong. Copy it again, whole."
)
UNKNOWN: Final = Denial("key_unknown", "This API key is unknown here. Check that it belongs to this API.")
ROTATED: Final = Denial("key_expired", "This API key was rotated and its grace is over. Use the new secret.")
WRONG_KIND: Final = Denial(
    "key_wrong_kind",
    "This is a service key: it lets an SDK or gateway ask for verdicts and can't call the API. "
    "Make a caller key with POST /v1/keys.",
)
BY_STATE: Final[Mapping[str, Denial]] = {
    "key_revoked": Denial("key_revoked", "This API key was revoked. Ask whoever gave it to you for a new one."),
    "key_expired": Denial("key_expired", "This API key has expired. Ask whoever gave it to you for a new one."),
    "key_disabled": Denial("key_disabled", "This API key is disabled. Its owner can enable it again."),
}
"""Of a key that may not be used in its state, by the code that ``lifecycle.refusal`` gives."""
KEY_MISSING: Final = Denial("key_missing", "Send an API key in X-API-Key, or in Authorization: Bearer.")
IP_NOT_ALLOWED: Final = Denial(
    "ip_not_allowed", "This API key may only be used from the addresses that its owner listed."
)
STALE: Final = Denial(
    "stale", "The service lost its database and no longer trusts what it knows of keys. Try again later."
)
STORE_GONE: Final = Denial(
    "store_unavailable", "The limits can't be checked now, and this one denies then. Try again later."
)
BLOCKED: Final = Denial("blocked", "Requests from this address are blocked.")
BLOCKED_COUNTRY: Final = Denial("blocked", "Requests from this country are blocked.")
BLOCKED_NETWORK: Final = Denial("blocked", "Requests from this network are blocked.")
BLOCKED_KEY: Final = Denial("blocked", "This API key is blocked.")
OTHER_QUESTION: Final = Denial(
    "bad_request",
    "This check_id was used for another question within the last minute. Give each check one of its own.",
)
