"""What happens around every endpoint of the control plane, in this order.

Authorise, read the body (strictly), look the Idempotency-Key up, run the endpoint, keep its answer. Nothing of a request is
parsed for somebody who may not make it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterator
from email.message import Message
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response

from apishield.api import strict_json
from apishield.api.auth import Authorizer, set_actor
from apishield.api.idempotency import answer_once
from apishield.api.permissions import permission_of
from apishield.bootstrap import Runtime
from apishield.errors import Fault, ProblemError
from apishield.services.aside import aside

BYTES_AN_ITEM = 100
"""About how long one of many things in a body is: a body with many is read aside."""


def current_runtime(request: Request) -> Runtime:
    """The wired parts that this application serves."""
    return cast(Runtime, request.app.state.runtime)


class ReadRequest(Request):
    """A request whose body was read and decoded already."""

    decoded: Any = None

    async def json(self) -> Any:
        """The decoded body."""
        return self.decoded


class ControlRoute(APIRoute):
    """A route of the control plane; its endpoint declares its permission with ``permit``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, with all that belongs around it."""
        run = super().get_route_handler()
        permission = permission_of(self.endpoint)
        takes_body = self.body_field is not None
        needs_body = self.body_field is not None and self.body_field.field_info.is_required()
        template, parameters = self.path_format, frozenset(_query_parameters(self.dependant))

        async def serve(request: Request) -> Response:
            if permission is None:
                raise TypeError(f"{template} declares no permission")
            authorizer: Authorizer = request.app.state.authorizer
            actor = await authorizer.authorize(request.scope, permission)
            set_actor(request.scope, actor)
            check_query(request, parameters)
            prepared = ReadRequest(request.scope, request.receive)
            raw = await prepared.body()
            if needs_body or (takes_body and raw):
                check_media_type(request.headers.get("content-type", ""))
                prepared.decoded = await aside(len(raw) // BYTES_AN_ITEM, lambda: strict_json.decode(raw))
            if request.method != "POST":
                return await run(prepared)
            return await answer_once(
                current_runtime(request).idempotency,
                actor,
                prepared,
                template=template,
                body=prepared.decoded,
                run=lambda: run(prepared),
            )

        return serve


def control_router(tag: str) -> APIRouter:
    """A router whose operations are listed under ``tag`` and named as their functions are."""
    return APIRouter(route_class=ControlRoute, tags=[tag], generate_unique_id_function=lambda route: route.name)


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    """The names that the query string of an endpoint may have."""
    for field in dependant.query_params:
        yield field.alias
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


def check_query(request: Request, known: Collection[str]) -> None:
    """Raises ``validation_failed`` for a parameter that is unknown or repeated: a misspelt filter would show everything."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            wanted = ", ".join(sorted(known)) or "none"
            message = f"is not a parameter that is known here ({wanted})"
        elif names.count(name) > 1:
            message = "is given twice"
        else:
            continue
        raise ProblemError("validation_failed", f"?{name[:64]} {message}.", faults=[Fault(f"?{name[:64]}", message)])


def check_media_type(content_type: str) -> None:
    """Raises ``unsupported_media_type`` where ``content_type`` is not JSON in UTF-8."""
    message = Message()
    message["content-type"] = content_type or "none/none"
    kind, charset = message.get_content_type(), message.get_content_charset("utf-8")
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        given = f"{content_type[:80]!r}" if content_type else "missing"
        raise ProblemError("unsupported_media_type", f"The Content-Type is {given}; send application/json.")
    if charset not in {"utf-8", "utf8", "us-ascii"}:
        raise ProblemError("unsupported_media_type", f"The charset is {charset[:40]!r}; JSON is UTF-8.")


CurrentRuntime = Annotated[Runtime, Depends(current_runtime)]
