"""What a decision looks like on the caller's side: the headers that are added, and the answer that refuses.

Every integration renders with these, so that ASGI, WSGI and Django say the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from apishield.core.decision import Decision, KeyView
from apishield.core.ids import new_id
from apishield.core.refusals import PROBLEM_MEDIA_TYPE, refusal_body
from apishield.errors import PROBLEMS
from apishield.integrations.callers import Incoming

CLIENT_CLOSED_REQUEST = 499  # nobody's standard, but what Nginx made everyone's word for it
DEGRADED_HEADERS = {"X-APIShield-Degraded": "true"}

# Headers that only make sense together: where the app sets one of a family, none of ours is added to it.
_FAMILIES = (
    frozenset({"ratelimit", "ratelimit-policy"}),
    frozenset({"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}),
)
_REFUSALS_ONLY = frozenset({"retry-after", "www-authenticate"})


class Refusal(NamedTuple):
    """A whole answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def added_headers(decision: Decision, present: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The headers to add to the app's answer, which has those named in ``present`` (lower case).

    What the app says itself stands: nothing of ours overwrites or doubles it.
    """
    taken = set(present)
    for family in _FAMILIES:
        if not taken.isdisjoint(family):
            taken |= family
    taken |= _REFUSALS_ONLY
    return [(name, value) for name, value in decision.headers.items() if name.lower() not in taken]


def refusal(decision: Decision, incoming: Incoming) -> Refusal:
    """The answer to a request that is not allowed: status, headers and a problem document."""
    request_id = incoming.request_id or new_id("req", time.time_ns() // 1000, secrets.token_bytes)
    body = refusal_body(decision, incoming.path or "*", request_id)
    headers = [(name, value) for name, value in decision.headers.items() if name.lower() not in _REFUSALS_ONLY]
    given = {name.lower(): value for name, value in decision.headers.items()}
    if "retry-after" in given and (decision.status == 429 or decision.retry_after is not None):
        headers.append(("Retry-After", given["retry-after"]))
    if decision.status == 401:
        headers.append(("WWW-Authenticate", given.get("www-authenticate", 'Bearer realm="api"')))
    headers += [
        ("Content-Type", PROBLEM_MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        ("X-Request-Id", request_id),
    ]
    return Refusal(decision.status, headers, body)


def without_service(on_error: str) -> Decision:
    """The decision while nobody can be asked; it says so in a header."""
    if on_error == "allow":
        return _made_here("ok", "", degraded=True)
    message = "The limits can't be checked now, and this API denies then. Try again later."
    return _made_here("store_unavailable", message, degraded=True)


def unverified() -> Decision:
    """The decision about a caller of whom nobody can say now whether it may call at all."""
    message = "This caller can't be verified now. Try again later."
    return _made_here("store_unavailable", message, degraded=True)


def seen_before(key: KeyView) -> Decision:
    """The decision that lets ``key`` through unchecked, because it was verified a while ago."""
    return msgspec.structs.replace(without_service("allow"), key=key)


def busy() -> Decision:
    """The decision about a request that too many others kept from being checked in time."""
    decision = _made_here(
        "store_unavailable", "Too many requests wait to be checked. Try again in a second.", degraded=False
    )
    return msgspec.structs.replace(decision, retry_after=1.0, headers={"Retry-After": "1"})


def unusable() -> Decision:
    """The decision about a request of which no check can be made."""
    return _made_here("bad_request", "The request can't be understood.", degraded=False)


def _made_here(code: str, message: str, *, degraded: bool) -> Decision:
    return Decision(
        allowed=code == "ok",
        code=code,
        status=200 if code == "ok" else PROBLEMS[code].status,
        message=message,
        decision_id="",
        tenant_id="",
        key=None,
        limits=[],
        shadow=[],
        retry_after=None,
        headers=DEGRADED_HEADERS if degraded else {},
        degraded=degraded,
    )
