"""Tokens: the credentials of the control plane."""

from __future__ import annotations

import msgspec

from apishield.core.key_manager.format import SecretKind, hint
from apishield.core.records import Actor, Role, Token
from apishield.errors import ProblemError
from apishield.services.audited import Audited
from apishield.services.base import Service, differing, hold_tenant, not_found, refuse_over, tenant_of
from apishield.services.checks import Faults
from apishield.services.lifetimes import within_own
from apishield.stores.sql.pagination import Page, PageRequest

_MAKERS = {Role.OWNER: (Role.OPERATOR, Role.OWNER), Role.VIEWER: (Role.OPERATOR, Role.OWNER)}


class TokenService(Service):
    """A token never has more rights, or a longer life, than the one that made it."""

    async def create(
        self, actor: Actor, *, name: str, role: Role, expires_at_us: int | None = None
    ) -> tuple[Token, str]:
        """Makes a token; returns it with its secret, which is shown this once. Without an expiry it gets the maker's."""
        if actor.role not in _MAKERS.get(role, ()):
            raise ProblemError("forbidden", f"A {actor.role} can't make a token with the role {role}.")
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            expires_at_us = within_own(actor, expires_at_us, "token")
            faults = Faults()
            faults.text("/name", name)
            faults.instant("/expires_at", expires_at_us, now_us=tx.now_us)
            faults.raise_any()
            most = self._ceilings.tokens
            if await tx.tokens.count_usable(tenant.id, now_us=tx.now_us, at_most=most) >= most:
                raise refuse_over(most, "tokens", ending="Revoke one")
            token_id = tx.new_id("tok")
            secret, stored = self._new_secret(SecretKind.TENANT_TOKEN, token_id)
            token = Token(
                id=token_id,
                tenant_id=tenant.id,
                name=name,
                role=role,
                hint=hint(secret),
                created_at_us=tx.now_us,
                expires_at_us=expires_at_us,
            )
            await tx.tokens.insert(tenant.id, token)
            await tx.secret_hashes.insert_many(tenant.id, "token", [stored], now_us=tx.now_us)
            tx.changed("token", tenant.id, token_id)
            await tx.audit.record(
                actor, action="token.created", target=token_id, after=Audited(self._secrets).token(token)
            )
        return token, secret

    async def list(self, actor: Actor, page: PageRequest) -> Page[Token]:
        """The tenant's tokens, newest first, revoked ones included."""
        async with self._database.read() as tx:
            return await tx.tokens.page(tenant_of(actor), page)

    async def revoke(self, actor: Actor, token_id: str) -> Token:
        """Ends a token for ever; revoking it again changes nothing."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            before = await tx.tokens.get(tenant.id, token_id)
            if before is None:
                raise not_found("token", token_id)
            if before.revoked_at_us is not None:
                return before
            after = msgspec.structs.replace(before, revoked_at_us=tx.now_us)
            await tx.tokens.replace(tenant.id, after)
            tx.changed("token", tenant.id, token_id)
            audited = Audited(self._secrets)
            was, now_is = differing(audited.token(before), audited.token(after))
            await tx.audit.record(actor, action="token.revoked", target=token_id, before=was, after=now_is)
        return after
