"""Who may ask for verdicts, and for which tenant: service keys, owners' tokens, and the operator who names a tenant."""

from __future__ import annotations

import msgspec

from apishield.core.key_manager.format import inspect
from apishield.core.ports import Clock
from apishield.core.records import Role
from apishield.errors import ProblemError
from apishield.services.snapshot import Credential, Snapshot, TenantView
from apishield.services.usage import UsageService

_HOW = "Send a service key or an owner's token: 'Authorization: Bearer sk_live_…'."
_MOST_REMEMBERED = 10_000
_LONGEST_HEADER = 600


class _Known(msgspec.Struct, gc=False):
    """A header that was found good in a ``generation`` of the snapshot."""

    view: TenantView
    credential_id: str
    generation: int
    expires_at_us: int | None


class Access:
    """Authenticates the data plane. Remembers headers that were good for as long as the snapshot stays what it was."""

    def __init__(self, snapshot: Snapshot, usage: UsageService, clock: Clock) -> None:
        self._snapshot = snapshot
        self._usage = usage
        self._clock = clock
        self._known: dict[bytes, _Known] = {}

    def remembered(self, authorization: bytes) -> TenantView | None:
        """The tenant of a header seen before, unless the snapshot changed or the credential expired since."""
        known = self._known.get(authorization)
        if known is None or known.generation != self._snapshot.generation:
            return None
        now_us = self._clock()
        if known.expires_at_us is not None and now_us >= known.expires_at_us:
            return None
        self._usage.touch(known.credential_id, now_us)
        return known.view

    async def tenant(self, authorization: bytes | None, named: bytes | None) -> TenantView:
        """The tenant that asks. Raises 401, 403, 404 or 422 with how to do it right."""
        if authorization is None:
            raise ProblemError("token_missing", f"A check needs a credential. {_HOW}")
        secret = _bearer(authorization)
        credential = self._snapshot.authenticate(secret)
        if credential is None and inspect(secret).intact:
            await look_again(self._snapshot)
            credential = self._snapshot.authenticate(secret)
        if credential is None:
            hint = " Callers' keys can't ask for verdicts." if secret.startswith("sk_") else ""
            raise ProblemError("token_invalid", f"The credential is unknown, revoked or expired.{hint} {_HOW}")
        view = self._view(credential, named)
        if view.tenant.status != "active":
            raise ProblemError(
                "tenant_suspended", f"The tenant is {view.tenant.status}. Ask whoever runs this service."
            )
        self._usage.touch(credential.id, self._clock())
        if named is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[authorization] = _Known(
                view, credential.id, self._snapshot.generation, credential.expires_at_us
            )
        return view

    def _view(self, credential: Credential, named: bytes | None) -> TenantView:
        if credential.role is Role.VIEWER:
            raise ProblemError("forbidden", f"A viewer's token can't ask for verdicts: a check charges. {_HOW}")
        tenant_id = credential.tenant_id
        if credential.role is Role.OPERATOR:
            if named is None:
                raise ProblemError(
                    "tenant_required",
                    "The operator's token belongs to no tenant. Name one: 'X-APIShield-Tenant: ten_…'.",
                )
            tenant_id = named.decode("latin-1")
        elif named is not None and named.decode("latin-1") != tenant_id:
            raise ProblemError("not_found", "This credential sees no such tenant. Leave X-APIShield-Tenant away.")
        view = self._snapshot.tenant(tenant_id) if tenant_id is not None else None
        if view is None:
            raise ProblemError("not_found", "There is no such tenant.")
        return view


async def look_again(snapshot: Snapshot) -> None:
    """Catches up, as another node may have made a credential a moment ago. Raises 503 where the database can't say."""
    try:
        await snapshot.shared_catch_up()
    except Exception as error:
        raise ProblemError(
            "database_unavailable",
            "The credential is not known here, and the database that could tell does not answer.",
        ) from error


def _bearer(authorization: bytes) -> str:
    scheme, _, secret = authorization.strip().partition(b" ")
    secret = secret.strip()
    if len(authorization) > _LONGEST_HEADER or scheme.lower() != b"bearer" or not secret or not secret.isascii():
        raise ProblemError("token_missing", f"The Authorization header has no bearer credential. {_HOW}")
    return secret.decode("ascii")
