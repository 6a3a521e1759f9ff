"""``GET /gateway/nginx`` for Nginx's ``auth_request``, and ``* /gateway/envoy/{path}`` for Envoy's ``ext_authz`` over HTTP.

Nginx knows 200, 401 and 403 and drops the body, so the true status travels in ``X-APIShield-Status``. Envoy passes status,
headers and body on to the client as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from apishield.api.dataplane.access import Access
from apishield.api.dataplane.answers import Answer
from apishield.api.gateway.facts import GatewayFacts
from apishield.api.problems import problem_document
from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest
from apishield.core.refusals import PROBLEM_MEDIA_TYPE, refusal_body
from apishield.errors import ProblemError
from apishield.later import Later
from apishield.services.engine import Engine
from apishield.services.snapshot import TenantView

log = structlog.get_logger("apishield.gateway")

NGINX_PATH = "/gateway/nginx"
ENVOY_PREFIX = "/gateway/envoy"
_PROBLEM = (b"content-type", PROBLEM_MEDIA_TYPE.encode())

Headers = Sequence[tuple[bytes, bytes]]
Render = Callable[[Decided, GatewayFacts, str], Answer]


class Gateways:
    """Answers gateways. Never raises: a question that can't be answered is refused, and the log says why."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self._engine = engine
        self._access = access

    def nginx(self, headers: Headers, _body: bytes) -> Answer | Awaitable[Answer]:
        """A subrequest of ``auth_request``; the original method and URI stand in headers."""
        try:
            facts = GatewayFacts(headers)
            if facts.method is None or facts.uri is None:
                raise ProblemError("bad_request", "X-Original-Method and X-Original-URI say what to check; send both.")
            uri = facts.uri.decode("latin-1")
            return self._ask(facts, facts.question(facts.method.decode("latin-1"), uri), uri, self._for_nginx)
        except ProblemError as error:
            return self._misasked(error, NGINX_PATH, nginx=True)

    def envoy(self, method: str, path: str, headers: Headers) -> Answer | Awaitable[Answer]:
        """An authorization request of ``ext_authz``: the client's own method, path (behind the prefix) and headers."""
        try:
            facts = GatewayFacts(headers)
            return self._ask(facts, facts.question(method, path), path, self._for_envoy)
        except ProblemError as error:
            return self._misasked(error, ENVOY_PREFIX, nginx=False)

    def _ask(
        self, facts: GatewayFacts, question: CheckRequest, path: str, render: Render
    ) -> Answer | Awaitable[Answer]:
        credential = None if facts.token is None else b"Bearer " + facts.token
        view = None if credential is None else self._access.remembered(credential)
        if view is None:
            return self._ask_later(credential, facts, question, path, render)
        decided = self._engine.check(view, question)
        if isinstance(decided, Decided):
            return render(decided, facts, path)
        return Later.of(decided).then(lambda done: render(done.result(), facts, path))

    async def _ask_later(
        self, credential: bytes | None, facts: GatewayFacts, question: CheckRequest, path: str, render: Render
    ) -> Answer:
        try:
            if credential is None:
                raise ProblemError("token_missing", "The gateway sends its service key in X-APIShield-Token.")
            view: TenantView = await self._access.tenant(credential, None)
        except ProblemError as error:
            return self._misasked(error, path, nginx=render == self._for_nginx)
        decided = self._engine.check(view, question)
        return render(decided if isinstance(decided, Decided) else await decided, facts, path)

    def _for_nginx(self, decided: Decided, facts: GatewayFacts, path: str) -> Answer:
        answer = self._for_envoy(decided, facts, path)
        status = (b"x-apishield-status", b"%d" % decided.status)
        return Answer(_nginx_status(decided.status), [*answer.headers, status], answer.body)

    def _for_envoy(self, decided: Decided, facts: GatewayFacts, path: str) -> Answer:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in decided.headers().items()]
        if decided.allowed:
            return Answer(200, headers, b"")
        given = facts.request_id
        request_id = f"req_{decided.decision_id[4:30]}" if given is None else given.decode("latin-1")
        body = refusal_body(decided.decision(), path.partition("?")[0], request_id)
        return Answer(decided.status, [_PROBLEM, *headers], body)

    def _misasked(self, error: ProblemError, path: str, *, nginx: bool) -> Answer:
        """The gateway asked wrongly, so its clients can't mend it: they see 503, whoever runs the gateway sees the log."""
        log.error("gateway.misasked", path=path, code=error.code, reason=error.detail)
        unavailable = ProblemError("store_unavailable", f"The gateway can't ask for verdicts: {error.detail}")
        body, _ = problem_document(unavailable, path, self._engine.new_request_id())
        headers = [_PROBLEM, (b"x-apishield-status", b"503")]
        return Answer(403 if nginx else 503, headers, body)


def _nginx_status(status: int) -> int:
    return status if status in {200, 401} else 403
