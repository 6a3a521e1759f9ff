"""Every error that APIShield raises on purpose, and the catalogue of problem codes.

::

    APIShieldError
    ├── ProblemError         a request that can't be served; a code of the catalogue, and faults by JSON pointer
    ├── StoreUnavailable     the counters' store can't be reached
    │   ├── StoreFull          it works, but has no room for a new counter
    │   ├── CounterUnreadable  it works, but somebody else wrote over a counter
    │   └── NoAnswer           what was asked may have been done, or may yet be
    ├── ConfigurationError   a setting is wrong; names the variable and the fix
    └── MissingExtra         an optional part is not installed; names the install command

A denial of a check is not an error: it is a ``Decision`` whose code stands in the same catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

PROBLEM_TYPE_BASE = "https://github.com/apishield/apishield/blob/main/docs/errors/"


class APIShieldError(Exception):
    """Base of all errors of this package."""


class Problem(NamedTuple):
    """A kind of problem: its HTTP status and a title that never changes from one occurrence to the next."""

    status: int
    title: str


PROBLEMS: Mapping[str, Problem] = {
    # a decision's codes (design: the verdict)
    "bad_request": Problem(400, "The request can't be understood"),
    "blocked": Problem(403, "The caller is blocked"),
    "key_missing": Problem(401, "An API key is required"),
    "key_malformed": Problem(401, "The API key is mistyped"),
    "key_unknown": Problem(401, "The API key is unknown"),
    "key_wrong_kind": Problem(401, "The key is of the wrong kind"),
    "key_revoked": Problem(401, "The API key was revoked"),
    "key_expired": Problem(401, "The API key has expired"),
    "key_disabled": Problem(401, "The API key is disabled"),
    "scope_missing": Problem(403, "The API key lacks a scope"),
    "ip_not_allowed": Problem(403, "The API key may not be used from this address"),
    "abuse_blocked": Problem(403, "The request looks like abuse"),
    "rate_limited": Problem(429, "Too many requests"),
    "quota_exceeded": Problem(429, "The quota is used up"),
    "concurrency_exceeded": Problem(429, "Too many requests at once"),
    "stale": Problem(503, "The service's view of its keys is too old"),
    "store_unavailable": Problem(503, "The limits can't be checked now"),
    # the control plane's codes
    "token_missing": Problem(401, "A token is required"),
    "token_invalid": Problem(401, "The token is not valid"),
    "forbidden": Problem(403, "The token may not do this"),
    "tenant_suspended": Problem(403, "The tenant is suspended"),
    "tenant_required": Problem(422, "An operator must name the tenant"),
    "signup_closed": Problem(401, "Signing up needs the operator's token"),
    "credential_in_query": Problem(400, "Credentials don't belong in a URL"),
    "host_not_allowed": Problem(421, "This service does not answer to that host"),
    "not_found": Problem(404, "There is no such thing"),
    "method_not_allowed": Problem(405, "The method is not allowed here"),
    "conflict": Problem(409, "The request conflicts with the present state"),
    "idempotency_in_progress": Problem(409, "The first request with this Idempotency-Key has not been answered"),
    "idempotency_mismatch": Problem(422, "The Idempotency-Key was used for another request"),
    "body_too_large": Problem(413, "The body is too large"),
    "unsupported_media_type": Problem(415, "The body must be JSON"),
    "malformed_json": Problem(400, "The body is not valid JSON"),
    "validation_failed": Problem(422, "Some fields can't be used"),
    "invalid_limit": Problem(422, "The limit can't be used"),
    "invalid_cursor": Problem(422, "The cursor can't be used"),
    "ceiling_reached": Problem(422, "A ceiling is reached"),
    "signup_rate_limited": Problem(429, "Too many sign-ups from this address"),
    "headers_too_large": Problem(431, "The headers are too large"),
    "internal": Problem(500, "Something went wrong on our side"),
    "database_unavailable": Problem(503, "The database can't be reached"),
    "storage_full": Problem(507, "The disk is full"),
}

REJECTIONS: Mapping[str, str] = {
    "decision_unknown": "There is no such decision",
    "report_too_old": "The decision is too old to report on",
    "not_reserved": "The check reserved nothing",
}
"""Why an event of a report is not taken, besides codes of ``PROBLEMS``: code and title. An event has no status."""


class Fault(NamedTuple):
    """What is wrong with one field; ``pointer`` is an RFC 6901 JSON pointer into the body, or ``?name`` for a query."""

    pointer: str
    message: str


class ProblemError(APIShieldError):
    """A request that can't be served. ``detail`` is for the world: it names the field, the given value and the fix."""

    def __init__(
        self, code: str, detail: str, *, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return PROBLEMS[self.code].status

    @property
    def title(self) -> str:
        """The title of the code."""
        return PROBLEMS[self.code].title


class StoreUnavailable(APIShieldError):  # noqa: N818  the name that limiters use for it
    """The store of the counters can't be reached, or did not answer in time.

    The message is for the log, as it may name servers; ``told`` is for the world.
    """

    told = "The counters can't be reached now."


class StoreFull(StoreUnavailable):
    """The store of the counters works, but has no room for a new one."""

    told = "The counters have no room for a new one now."


class CounterUnreadable(StoreUnavailable):
    """The store works, but under ``key`` lies what this service did not write. Nothing was charged."""

    told = "A counter can't be read now."

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"Under {key!r} lies what APIShield did not write there: {why}")
        self.key = key


class QuotaUnknown(StoreUnavailable):
    """The ledger could not say, or not in time, what was used of a quota. The store itself works, and charged nothing."""

    told = "What was used of the quota can't be told now."


class NoAnswer(StoreUnavailable):
    """The store of the counters was asked and gave no answer: what was asked may have been done, or may yet be."""


class ConfigurationError(APIShieldError):
    """A setting is wrong. The message names the variable, its value and the fix."""


class MissingExtra(APIShieldError):  # noqa: N818  reads as what is wrong
    """An optional part is not installed. The message names the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} is not installed. Install it with: pip install "apishield[{extra}]"')
        self.extra = extra
