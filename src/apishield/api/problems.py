"""Every error as a problem document (RFC 9457), with the code of the catalogue in ``errors.PROBLEMS``.

Owns: how an error looks to the world. Does not own: which errors there are (``errors``), the words of one (who raises it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from apishield.errors import PROBLEM_TYPE_BASE, Fault, ProblemError, StoreUnavailable
from apishield.redaction import redact

log = structlog.get_logger("apishield.api")

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "apishield.request_id"
MAX_FAULTS = 50
MAX_SHOWN_CHARACTERS = 80

Location = Sequence[str | int]


LIMIT = "\0limit:"
"""Marks, in Pydantic's locations and error types, what lies inside a limit (``schemas.limits``); never shown.

Begins with NUL, which no name in a body can hold, so that it is taken for no field.
"""
FORM = "\0form:"
"""Likewise marks which form of a value was read, where it has several."""
_NAME = "[key]"  # so Pydantic ends a location that is about an entry's name


def problem_response(scope: Scope, error: ProblemError) -> Response:
    """``error`` as the answer to the request of ``scope``."""
    body, headers = problem_document(error, scope.get("path", "/"), scope.get(REQUEST_ID))
    return Response(body, error.status, headers, MEDIA_TYPE)


def problem_document(error: ProblemError, instance: str, request_id: str | None) -> tuple[bytes, dict[str, str]]:
    """``error`` as a document, and the headers that go with it.

    What callers sent is shown without credentials, which some put in the wrong place: documents end up in logs.
    """
    document: dict[str, Any] = {
        "type": f"{PROBLEM_TYPE_BASE}{error.code}.md",
        "title": error.title,
        "status": error.status,
        "detail": redact(error.detail),
        "instance": redact(instance),
        "code": error.code,
        "request_id": request_id,
    }
    if error.faults:
        document["errors"] = [
            {"pointer": redact(fault.pointer), "message": redact(fault.message)} for fault in error.faults
        ]
    headers = dict(error.headers)
    if error.status == 401:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="APIShield"')
    return msgspec.json.encode(document), headers


async def answer_problem(request: Request, error: Exception) -> Response:
    """Handles ``ProblemError``."""
    return problem_response(request.scope, cast(ProblemError, error))


async def answer_store_unavailable(request: Request, error: Exception) -> Response:
    """Handles a store of counters that can't be reached, or has no room, where something is asked of it directly."""
    return problem_response(request.scope, store_unavailable(cast(StoreUnavailable, error)))


def store_unavailable(error: StoreUnavailable) -> ProblemError:
    """503 for a store that can't be asked. What exactly is wrong with it goes to the log: it is the operator's to know."""
    log.warning("store.unavailable", reason=str(error))
    return ProblemError("store_unavailable", f"{error.told} Try again in a few seconds.")


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Handles what the router itself raises: no such path, no such method."""
    error = cast(HTTPException, error)
    match error.status_code:
        case 404:
            problem = ProblemError("not_found", f"There is no {request.url.path}. The paths are listed at /docs.")
        case 405:
            problem = method_not_allowed(request.method, request.url.path, ", ".join(_methods_at(request)))
        case 413:
            problem = ProblemError("body_too_large", "The body is over 1 MiB. Send less at once.")
        case status if status < 500:
            problem = ProblemError("bad_request", str(error.detail))
        case _:
            problem = ProblemError("internal", "The request could not be served.")
    return problem_response(request.scope, problem)


def method_not_allowed(method: str, path: str, allowed: str) -> ProblemError:
    """405 for a method that a path does not answer; ``allowed`` lists those that it does."""
    detail = f"{method[:10]} is not possible on {path}. Possible: {allowed}."
    return ProblemError("method_not_allowed", detail, headers={"Allow": allowed})


def _methods_at(request: Request) -> list[str]:
    """All methods of a path. The router has stopped at the first route that matches it, and knows only that one's."""
    routes: list[Any] = request.app.routes
    first = next(route for route in routes if route.path_regex.match(request.url.path))
    methods = {method for route in routes if route.path_format == first.path_format for method in route.methods}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Handles fields that can't be used: names each, shows the first with its value."""
    return problem_response(request.scope, invalid(cast(RequestValidationError, error).errors()))


class Finding(NamedTuple):
    """One thing that Pydantic found. ``value`` is ``_ABSENT`` where there is none to be shown."""

    location: Location
    message: str
    value: object
    in_limit: bool

    @property
    def sentence(self) -> str:
        """The message, with the value where it is about one: ``0 is below 1``."""
        about_value = self.value is not _ABSENT and self.message.startswith("is ")
        return f"{show(self.value)} {self.message}" if about_value else self.message


_ABSENT = object()
_WORDS: Mapping[str, str] = {
    "missing": "is required",
    "extra_forbidden": "is not a field that is known here",
    "string_type": "must be a text",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than_equal": "is below {ge}",
    "less_than_equal": "is above {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be shorter than {min_length}",
    "string_too_long": "must not be longer than {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_pattern_mismatch": "must match {pattern}",
}
_HINTS: Mapping[str, str] = {
    "window_seconds": "A window lasts 1 second to 31 days; for a longer period use a quota.",
    "burst": "Burst is the ceiling of a token_bucket; the windows have none.",
    "window": "The length of a window is window_seconds.",
}


def invalid(errors: Sequence[Mapping[str, Any]]) -> ProblemError:
    """What Pydantic found (``errors``) as one problem; ``invalid_limit`` where nothing but limits is wrong."""
    found = [_finding(error) for error in errors]
    first = found[0]
    subject = dotted(first.location) or "The body"
    if first.value is _ABSENT:
        detail = f"{subject}{'' if first.message.startswith('is ') else ':'} {first.message}."
    elif first.message.startswith("is "):
        detail = f"{subject} is {show(first.value)}, which {first.message}."
    else:
        detail = f"{subject} is {show(first.value)}: {first.message}."
    hint = _HINTS.get(str(first.location[-1])) if first.in_limit else None
    more = f"{len(found) - 1} more in errors." if len(found) > 1 else None
    return ProblemError(
        "invalid_limit" if all(finding.in_limit for finding in found) else "validation_failed",
        " ".join(filter(None, (detail, hint, more))),
        faults=[Fault(pointer(finding.location), finding.sentence) for finding in found[:MAX_FAULTS]],
    )


def _finding(error: Mapping[str, Any]) -> Finding:
    kind, context = str(error["type"]), error.get("ctx", {})
    parts = tuple(error["loc"])
    location = tuple(part for part in parts if not str(part).startswith((LIMIT, FORM)))
    in_limit = kind.startswith(LIMIT) or any(str(part).startswith(LIMIT) for part in parts)
    of_name = len(location) > 2 and location[-1] == _NAME  # two at least: where it lies, and the name itself
    if of_name:
        location = location[:-1]
    value = error.get("input", _ABSENT)
    if kind == f"{LIMIT}strategy":  # Pydantic reports it at the limit itself
        location = (*location, "strategy")
        value = value.get("strategy", _ABSENT) if isinstance(value, dict) else value
    if of_name or kind in {"missing", "extra_forbidden", f"{LIMIT}text"}:
        value = _ABSENT
    words = _WORDS.get(kind, str(context.get("error", error["msg"])).rstrip(".").replace("{", "{{").replace("}", "}}"))
    return Finding(location, f"{'the name ' * of_name}{words.format_map(context)}", value, in_limit)


def pointer(location: Location) -> str:
    """``location`` as an RFC 6901 JSON pointer into the body, ``?name`` for a query parameter, ``name:`` for a header."""
    source, *rest = location or ("body",)
    if source in {"query", "path", "cookie"}:
        return f"?{'.'.join(map(str, rest))}"
    if source == "header":
        return f"{rest[0]}:"
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in rest)


def dotted(location: Location) -> str:
    """``location`` as people write it: ``rate_limits[0].requests``."""
    text = ""
    for part in location[1:]:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def show(value: object) -> str:
    """``value`` as JSON, shortened; of something long or deep only what kind it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = msgspec.json.encode(value).decode() if isinstance(value, str | int | float | bool | None) else str(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"
