"""``GET /gateway/nginx`` for Nginx's ``auth_request``, and ``* /gateway/envoy/{path}`` for Envoy's ``ext_authz`` over HTTP.

Nginx knows 200, 401 and 403 and drops the body, so the true status travels in ``X-APIShield-Status``. Envoy passes status,
headers and body on to the client as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from apishield.api.dataplane.access import Access
from apishield.api.dataplane.answers import Answer, Answered, Question
from apishield.api.gateway.facts import GatewayFacts
from apishield.api.problems import problem_document
from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest
from apishield.core.refusals import PROBLEM_MEDIA_TYPE, refusal_body
from apishield.errors import ProblemError
from apishield.services.asked import Asked
from apishield.services.engine import Engine
from apishield.services.snapshot import TenantView

log = structlog.get_logger("apishield.gateway")

NGINX_PATH = "/gateway/nginx"
ENVOY_PREFIX = "/gateway/envoy"
_PROBLEM = (b"content-type", PROBLEM_MEDIA_TYPE.encode())

Headers = Sequence[tuple[bytes, bytes]]


class Gateways:
    """Answers gateways. Never raises: a question that can't be answered is refused, and the log says why."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self._engine = engine
        self._access = access

    def nginx(self, headers: Headers, _body: bytes) -> Answered:
        """A subrequest of ``auth_request``; the original method and URI stand in headers."""
        try:
            facts = GatewayFacts(headers)
            if facts.method is None or facts.uri is None:
                raise ProblemError("bad_request", "X-Original-Method and X-Original-URI say what to check; send both.")
            uri = facts.uri.decode("latin-1")
            return self._ask(facts, facts.question(facts.method.decode("latin-1"), uri), uri, nginx=True)
        except ProblemError as error:
            return self._misasked(error, NGINX_PATH, nginx=True)

    def envoy(self, method: str, path: str, headers: Headers) -> Answered:
        """An authorization request of ``ext_authz``: the client's own method, path (behind the prefix) and headers."""
        try:
            facts = GatewayFacts(headers)
            return self._ask(facts, facts.question(method, path), path, nginx=False)
        except ProblemError as error:
            return self._misasked(error, ENVOY_PREFIX, nginx=False)

    def _ask(self, facts: GatewayFacts, question: CheckRequest, path: str, *, nginx: bool) -> Answered:
        credential = None if facts.token is None else b"Bearer " + facts.token
        view = None if credential is None else self._access.remembered(credential)
        screened = None if view is None else self._engine.screen(view, question)
        if screened is None:
            return self._ask_later(credential, facts, question, path, nginx=nginx)
        return _Check(self, screened, facts, path, nginx=nginx)

    async def _ask_later(
        self, credential: bytes | None, facts: GatewayFacts, question: CheckRequest, path: str, *, nginx: bool
    ) -> Answer:
        try:
            if credential is None:
                raise ProblemError("token_missing", "The gateway sends its service key in X-APIShield-Token.")
            view: TenantView = await self._access.tenant(credential, None)
        except ProblemError as error:
            return self._misasked(error, path, nginx=nginx)
        decided = self._engine.check(view, question)
        return _told(decided if isinstance(decided, Decided) else await decided, facts, path, nginx=nginx)

    def failure(self, error: Exception, path: str, *, nginx: bool) -> Answer:
        """What a gateway is told where a check failed on our side."""
        log.error("gateway.failed", path=path, exc_info=error)
        return self._unavailable("The check failed.", path, nginx=nginx)

    def _misasked(self, error: ProblemError, path: str, *, nginx: bool) -> Answer:
        """The gateway asked wrongly, so its clients can't mend it: they see 503, whoever runs the gateway sees the log."""
        log.error("gateway.misasked", path=path, code=error.code, reason=error.detail)
        return self._unavailable(f"The gateway can't ask for verdicts: {error.detail}", path, nginx=nginx)

    def _unavailable(self, detail: str, path: str, *, nginx: bool) -> Answer:
        unavailable = ProblemError("store_unavailable", detail)
        body, _ = problem_document(unavailable, path, self._engine.new_request_id())
        headers = [_PROBLEM, (b"x-apishield-status", b"503")]
        return Answer(403 if nginx else 503, headers, body)


def _told(decided: Decided, facts: GatewayFacts, path: str, *, nginx: bool) -> Answer:
    """What a gateway is told of a decision: headers, and why it is refused."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in decided.headers().items()]
    if decided.allowed:
        status, body = 200, b""
    else:
        given = facts.request_id
        request_id = f"req_{decided.decision_id[4:30]}" if given is None else given.decode("latin-1")
        body = refusal_body(decided.decision(), path.partition("?")[0], request_id)
        status, headers = decided.status, [_PROBLEM, *headers]
    if nginx:
        headers.append((b"x-apishield-status", b"%d" % status))
        status = _nginx_status(status)
    return Answer(status, headers, body)


class _Check(Question):
    """A question of a gateway."""

    __slots__ = ("_facts", "_gateways", "_nginx", "_path")

    def __init__(self, gateways: Gateways, screened: Asked, facts: GatewayFacts, path: str, *, nginx: bool) -> None:
        self.screened = screened
        self._gateways, self._facts, self._path, self._nginx = gateways, facts, path, nginx

    def answer(self, decided: Decided) -> Answer:
        """The decision in headers."""
        return _told(decided, self._facts, self._path, nginx=self._nginx)

    def failure(self, error: Exception) -> Answer:
        """That it is our fault."""
        return self._gateways.failure(error, self._path, nginx=self._nginx)


def _nginx_status(status: int) -> int:
    return status if status in {200, 401} else 403
