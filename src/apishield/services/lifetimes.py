"""How long a credential may live that another one makes: never longer than its maker."""

from __future__ import annotations

from apishield.core.records import Actor
from apishield.errors import Fault, ProblemError


def outlives(actor: Actor, expires_at_us: int | None) -> bool:
    """Whether what ends then would work after the actor's own credential ends."""
    own_us = actor.expires_at_us
    return own_us is not None and (expires_at_us is None or expires_at_us > own_us)


def within_own(actor: Actor, asked_us: int | None, what: str) -> int | None:
    """The expiry that was asked for; the actor's own where none was. Raises ``validation_failed`` for a later one."""
    if asked_us is None:
        return actor.expires_at_us
    if outlives(actor, asked_us):
        raise ProblemError(
            "validation_failed",
            f"expires_at: a {what} can't outlive the token that makes it; give an earlier time, or use a token that lasts "
            "longer.",
            faults=[Fault("/expires_at", "is later than the expiry of the token that asks")],
        )
    return asked_us
