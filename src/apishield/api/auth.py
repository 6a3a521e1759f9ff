"""From a request to an ``Actor``: who asks, for which tenant, and whether that is permitted."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import Scope

from apishield.api.dataplane.access import look_again
from apishield.api.origins import Origins
from apishield.api.permissions import Permission
from apishield.api.problems import REQUEST_ID
from apishield.bootstrap import Runtime
from apishield.core.ids import is_id
from apishield.core.key_manager.format import inspect
from apishield.core.records import Actor, Role
from apishield.errors import ProblemError
from apishield.services.snapshot import Credential

TENANT_HEADER = "X-APIShield-Tenant"
ANONYMOUS_ID = "anonymous"
KEY_PREFIX = "sk_"
MAX_CREDENTIAL_CHARACTERS = 512
_ACTOR = "apishield.actor"
_HOW = "Send a tenant's or the operator's token: 'Authorization: Bearer ast_…'."


class Authorizer:
    """Decides, for a request and the permission of its route, who acts. Keeps nothing between requests."""

    def __init__(self, runtime: Runtime, origins: Origins) -> None:
        self._runtime = runtime
        self._origins = origins

    async def authorize(self, scope: Scope, permission: Permission) -> Actor:
        """The actor, who holds ``permission``. Raises 401, 403, 404 or 422 where there is none."""
        rule = permission.value
        headers = Headers(scope=scope)
        credential = credential_of(headers) if permission is not Permission.PUBLIC else None
        if credential is None:
            if not rule.public:
                raise ProblemError("token_missing", f"This needs a token. {_HOW}")
            return self._actor(scope, None, None)
        known = await self._identify(credential)
        if known.role not in rule.roles:
            raise ProblemError("forbidden", _why_forbidden(known.role, permission))
        tenant_id = await self._tenant(known, headers.get(TENANT_HEADER))
        if rule.in_tenant and tenant_id is None:
            raise ProblemError(
                "tenant_required", f"The operator's token belongs to no tenant. Name one: '{TENANT_HEADER}: ten_…'."
            )
        self._runtime.usage.touch(known.id, self._runtime.clock())
        return self._actor(scope, known, tenant_id)

    def still_holds(self, scope: Scope, permission: Permission) -> bool:
        """Whether who was authorised for ``scope`` would be so again, by what this node knows now; asks no database."""
        headers = Headers(scope=scope)
        credential = credential_of(headers)
        known = None if credential is None else self._runtime.snapshot.authenticate(credential)
        if known is None or known.role not in permission.value.roles:
            return False
        try:
            self._known_tenant(known, headers.get(TENANT_HEADER))
        except ProblemError:
            return False
        return True

    async def is_operator(self, scope: Scope) -> bool:
        """Whether the operator's token was sent. Raises 401 where an invalid one was."""
        credential = credential_of(Headers(scope=scope))
        return credential is not None and (await self._identify(credential)).role is Role.OPERATOR

    async def _identify(self, secret: str) -> Credential:
        snapshot = self._runtime.snapshot
        known = snapshot.authenticate(secret)
        if known is None and inspect(secret).intact:
            await look_again(snapshot)
            known = snapshot.authenticate(secret)
        if (known is not None and known.role is Role.SERVICE) or secret.startswith(KEY_PREFIX):
            raise ProblemError("token_invalid", f"This is an API key; the control plane takes tokens only. {_HOW}")
        if known is None:
            raise ProblemError("token_invalid", f"The token is unknown, revoked or expired. {_HOW}")
        return known

    async def _tenant(self, known: Credential, named: str | None) -> str | None:
        """The tenant that ``known`` acts in; the operator names it, for a token it is given."""
        snapshot = self._runtime.snapshot
        is_named = known.role is Role.OPERATOR and named is not None and is_id("ten", named)
        if is_named and named is not None and snapshot.tenant(named) is None:
            await look_again(snapshot)
        return self._known_tenant(known, named)

    def _known_tenant(self, known: Credential, named: str | None) -> str | None:
        """The same, by what this node knows."""
        snapshot = self._runtime.snapshot
        if known.role is Role.OPERATOR:
            if named is None:
                return None
            view = snapshot.tenant(named)
            if view is None or view.tenant.status == "deleted":
                raise ProblemError("not_found", f"{TENANT_HEADER} is {named[:40]!a}; there is no such tenant.")
            return named
        if named is not None and named != known.tenant_id:
            raise ProblemError("not_found", f"This token sees no tenant {named[:40]!a}. Leave {TENANT_HEADER} away.")
        view = snapshot.tenant(known.tenant_id) if known.tenant_id is not None else None
        if view is None or view.tenant.status == "deleted":
            raise ProblemError("token_invalid", "The tenant of this token was deleted.")
        if view.tenant.status != "active":
            raise ProblemError(
                "tenant_suspended", f"The tenant is {view.tenant.status}. Ask whoever runs this service."
            )
        return known.tenant_id

    def _actor(self, scope: Scope, known: Credential | None, tenant_id: str | None) -> Actor:
        return Actor(
            id=ANONYMOUS_ID if known is None else known.id,
            role=None if known is None else known.role,
            tenant_id=tenant_id,
            address=self._origins.address(scope),
            request_id=scope.get(REQUEST_ID),
            expires_at_us=None if known is None else known.expires_at_us,
        )


def credential_of(headers: Headers) -> str | None:
    """The bearer credential, or ``None`` where none was sent. Raises 401 for another scheme, 400 for two of them."""
    sent = headers.getlist("authorization")
    if not sent:
        return None
    if len(sent) > 1:
        raise ProblemError("bad_request", "There are several Authorization headers; send one.")
    scheme, _, credential = sent[0].strip().partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise ProblemError("token_missing", f"The Authorization header has no bearer token. {_HOW}")
    if len(credential) > MAX_CREDENTIAL_CHARACTERS or not credential.isascii():
        raise ProblemError("token_invalid", f"That is no token of this service. {_HOW}")
    return credential


def _why_forbidden(role: Role | None, permission: Permission) -> str:
    if permission.value.roles == {Role.OPERATOR}:
        return "Only the operator's token may do this."
    return f"A {role} may not do this ({permission.value.name}); it needs an owner's token."


def set_actor(scope: Scope, actor: Actor) -> None:
    """Remembers who acts in the request of ``scope``."""
    scope[_ACTOR] = actor


def current_actor(request: Request) -> Actor:
    """Who acts; the route authorised it before its endpoint ran."""
    return cast(Actor, request.scope[_ACTOR])


CurrentActor = Annotated[Actor, Depends(current_actor)]
