"""What can go wrong between the SDK and the service.

::

    APIShieldError
    ├── ServiceUnavailableError        no answer: refused, reset, timed out, or a 5xx without a problem body
    └── APIError                       the service answered with a problem; has its code, detail and faults
        ├── AuthenticationError        401  the token or key is missing or wrong
        ├── PermissionDeniedError      403  it may not do this
        ├── NotFoundError              404
        ├── ConflictError              409
        ├── InvalidRequestError        400, 413, 415, 422  ``faults`` names the fields
        ├── TooManyRequestsError       429  ``retry_after_seconds`` says when
        └── ServerError                5xx

A denial of a check is not among them: ``check`` returns it as a ``Decision``.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from apishield.errors import APIShieldError, Fault


class ServiceUnavailableError(APIShieldError):
    """The service did not answer. ``sent`` is false where it can't have seen the request."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class APIError(APIShieldError):
    """The service answered with a problem (RFC 9457)."""

    def __init__(self, problem: ProblemBody, retry_after_seconds: int | None) -> None:
        super().__init__(f"{problem.detail or problem.title} [{problem.status} {problem.code}]")
        self.status = problem.status
        self.code = problem.code
        self.title = problem.title
        self.detail = problem.detail
        self.type = problem.type
        self.request_id = problem.request_id
        self.faults = tuple(Fault(entry.pointer, entry.message) for entry in problem.errors)
        self.retry_after_seconds = retry_after_seconds


class AuthenticationError(APIError):
    """The token or key is missing or wrong."""


class PermissionDeniedError(APIError):
    """The credential may not do this."""


class NotFoundError(APIError):
    """There is no such thing, or it is another tenant's."""


class ConflictError(APIError):
    """The request conflicts with the present state."""


class InvalidRequestError(APIError):
    """The request can't be used; ``faults`` names the fields."""


class TooManyRequestsError(APIError):
    """Asked too often; ``retry_after_seconds`` says when to ask again."""


class ServerError(APIError):
    """Something went wrong in the service."""


class ProblemFault(msgspec.Struct, frozen=True):
    """One entry of a problem's ``errors``."""

    pointer: str = ""
    message: str = ""


class ProblemBody(msgspec.Struct, frozen=True):
    """A problem as the service writes it; every field may be missing, as proxies answer too."""

    status: int = 0
    code: str = ""
    title: str = ""
    detail: str = ""
    type: str = "about:blank"
    request_id: str | None = None
    errors: list[ProblemFault] = []


_BY_STATUS: Mapping[int, type[APIError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: TooManyRequestsError,
    **dict.fromkeys((400, 413, 415, 422), InvalidRequestError),
}


def error_of(status: int, body: bytes, retry_after: str | None) -> APIShieldError:
    """The error for an answer that is not a success. A 5xx of which no problem can be read is ``ServiceUnavailableError``."""
    try:
        problem = msgspec.json.decode(body, type=ProblemBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = ProblemBody()
    if not problem.code and status >= 500:
        return ServiceUnavailableError(f"The service answered {status} without saying why.", sent=True)
    problem = msgspec.structs.replace(problem, status=status, title=problem.title or f"HTTP status {status}")
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else APIError)
    seconds = int(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
    return kind(problem, seconds)
