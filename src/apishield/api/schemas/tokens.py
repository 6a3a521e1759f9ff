"""Tokens of the control plane."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apishield.api.schemas.common import Input, Instant, Name, Output, Timestamp, example
from apishield.api.times import optional_rfc3339, to_rfc3339
from apishield.core.records import Token

TOKEN_EXAMPLE = {
    "id": "tok_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "name": "Dashboard",
    "role": "viewer",
    "hint": "ast_Nq…oI4S",
    "status": "active",
    "created_at": "2026-11-23T14:00:00.123456Z",
    "expires_at": None,
    "last_used_at": None,
}


class TokenCreate(Input):
    """A new token: at most the rights and the life of the one that makes it."""

    model_config = example({"name": "Dashboard", "role": "viewer", "expires_at": "2027-12-31T23:59:59Z"})

    name: Name
    role: Literal["owner", "viewer"]
    expires_at: Instant | None = None


class TokenOut(Output):
    """A token, without its secret."""

    model_config = example(TOKEN_EXAMPLE)

    id: str
    name: str
    role: Literal["owner", "viewer"]
    hint: str
    status: Literal["active", "revoked", "expired"]
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None

    @classmethod
    def of(cls, token: Token, now_us: int) -> TokenOut:
        """How ``token`` is shown."""
        return cls(**_shown(token, now_us))


class CreatedTokenOut(TokenOut):
    """A new token."""

    model_config = example(TOKEN_EXAMPLE | {"token": "ast_Nq3pV8sKx1Zr7YbT5mWc2HdLf9JgQe0aUoIi4S"})

    token: str = Field(description="The token itself. Shown once.")

    @classmethod
    def made(cls, token: Token, secret: str, now_us: int) -> CreatedTokenOut:
        """How a new token is shown."""
        return cls(**_shown(token, now_us), token=secret)


def _shown(token: Token, now_us: int) -> dict[str, object]:
    expired = token.expires_at_us is not None and token.expires_at_us <= now_us
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.value,
        "hint": token.hint,
        "status": "revoked" if token.revoked_at_us is not None else "expired" if expired else "active",
        "created_at": to_rfc3339(token.created_at_us),
        "expires_at": optional_rfc3339(token.expires_at_us),
        "last_used_at": optional_rfc3339(token.last_used_at_us),
    }
