"""A store's verdict in words: what a decision says of its limits, with code, message and headers.

Owns: the texts of refusals by a limit, the order of limits (most restrictive first). Does not own: the form of the headers
(``headers``), refusals by anything else than a limit (``services.engine``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from apishield.core.decision import LimitState
from apishield.core.headers import MOST, rate_limit_headers, restriction
from apishield.core.model import SECOND_US, Concurrency, Limit, Quota, Verdict
from apishield.core.outcome import Outcome
from apishield.core.policies import Meter

MAX_LISTED: Final = 20
"""Limits that a decision lists, enforced and in shadow each: a thousand would be an answer of 245 KB."""
MAX_IN_HEADERS: Final = 10
"""Limits in ``RateLimit`` and its policy: about 1 KB, where many a proxy takes 4 KB of headers in all."""


Standing = tuple[Meter, Outcome]
"""A limit, and what its counter says."""

FRACTIONS: Final = [f".{milliseconds:03}".rstrip("0") if milliseconds else ".0" for milliseconds in range(1000)]
"""What stands behind the seconds, by milliseconds, as JSON writes floats."""


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """What a verdict comes to, before it is put into a form: a caller that needs no more than headers pays for no more.

    ``enforced`` and ``shadow`` are the limits that are listed, ``omitted`` is the number of those that had a say and are not.
    ``retry_after_us`` is ``None`` where the check passes now or never.
    """

    code: str
    message: str
    now_us: int
    enforced: Sequence[Standing] = ()
    shadow: Sequence[Standing] = ()
    retry_after_us: int | None = None
    omitted: int = 0

    @property
    def retry_after(self) -> float | None:
        """In seconds, rounded up to a millisecond."""
        return None if self.retry_after_us is None else -(-self.retry_after_us // 1000) / 1000

    def limits(self) -> list[LimitState]:
        """The enforced limits as a decision lists them."""
        return [limit_state(meter, outcome) for meter, outcome in self.enforced]

    def shadow_limits(self) -> list[LimitState]:
        """The limits in shadow, likewise."""
        return [limit_state(meter, outcome) for meter, outcome in self.shadow]

    def headers(self, *, draft: bool = True, legacy: bool = True) -> dict[str, str]:
        """The headers of the limits, which lack those of the decision itself."""
        headers = rate_limit_headers(self._in_headers(), self.now_us, draft=draft, legacy=legacy)
        if self.retry_after_us is not None:
            headers["Retry-After"] = f"{-(-self.retry_after_us // SECOND_US)}"
        return headers

    def _in_headers(self) -> Sequence[Standing]:
        return self.enforced if len(self.enforced) <= MAX_IN_HEADERS else self.enforced[:MAX_IN_HEADERS]


def render(meters: Sequence[Meter], verdict: Verdict) -> Rendered:
    """Renders ``verdict``, whose outcomes are parallel to ``meters``."""
    shadow: list[Standing] = []
    if len(meters) == 1 and not meters[0].shadow:  # as most are: a loop over one costs a check a third of all this
        enforced = [(meters[0], verdict.outcomes[0])]
    else:
        enforced = []
        for standing in zip(meters, verdict.outcomes, strict=True):
            (shadow if standing[0].shadow else enforced).append(standing)
    omitted = 0
    if len(enforced) > 1:
        enforced.sort(key=restriction)
        omitted = _cut(enforced)
    if len(shadow) > MAX_LISTED:
        shadow.sort(key=_shadow_restriction)
        omitted += _cut(shadow)
    if verdict.admitted:
        return Rendered("ok", "", verdict.now_us, enforced, shadow, None, omitted)
    meter, outcome = enforced[0]
    limit, wait_us = meter.limit, outcome.retry_after_us
    return Rendered(
        limit_code(limit), limit_message(limit, wait_us), verdict.now_us, enforced, shadow, wait_us, omitted
    )


def _shadow_restriction(standing: Standing) -> tuple[bool, float]:
    meter, outcome = standing
    return outcome.admitted, max(outcome.remaining, 0) / meter.ceiling


def _cut(listed: list[Standing]) -> int:
    """Keeps the first of what is listed; returns how many are left out."""
    omitted = max(0, len(listed) - MAX_LISTED)
    if omitted:
        del listed[MAX_LISTED:]
    return omitted


def limit_state(meter: Meter, outcome: Outcome) -> LimitState:
    """One limit after the decision."""
    return LimitState(
        meter.name,
        meter.policy_id,
        meter.strategy,
        meter.unit,
        meter.ceiling,
        outcome.remaining if outcome.remaining > 0 else 0,
        meter.window_seconds,
        -(-outcome.reset_us // 1000) / 1000,
        not outcome.admitted,
    )


def json_limits(standings: Sequence[Standing], now_us: int, *, draft: bool, legacy: bool) -> tuple[str, str]:
    """``limit_state`` of each as members of an array, and ``rate_limit_headers`` of them as members of an object.

    Behind each of the latter is a comma. Both in one pass over numbers that are written out once: to render is the most of what
    a check takes.
    """
    states = policy = standing = legacy_members = ""
    listed = 0
    for meter, outcome in standings:
        parts, reset_us = meter.json, outcome.reset_us
        left = f"{outcome.remaining if outcome.remaining > 0 else 0}"
        milliseconds, wait = -(-reset_us // 1000), -(-reset_us // SECOND_US)
        state = (
            f"{parts.before}{left}{parts.between}{milliseconds // 1000}{FRACTIONS[milliseconds % 1000]}"
            f"{parts.kept if outcome.admitted else parts.violated}"
        )
        item = f"{parts.standing}{left};t={wait if wait < MOST else MOST}"
        listed += 1
        if listed == 1:
            states, policy, standing = state, parts.policy_item, item
            if legacy:
                legacy_members = (
                    f'"X-RateLimit-Limit":"{meter.ceiling_text}","X-RateLimit-Remaining":"{left}",'
                    f'"X-RateLimit-Reset":"{-(-(now_us + reset_us) // SECOND_US)}",'
                )
            continue
        states = f"{states},{state}"
        if listed <= MAX_IN_HEADERS:
            policy, standing = f"{policy}, {parts.policy_item}", f"{standing}, {item}"
    if draft and listed:
        return states, f'"RateLimit-Policy":"{policy}","RateLimit":"{standing}",{legacy_members}'
    return states, legacy_members


def limit_code(limit: Limit) -> str:
    """The code of a refusal by ``limit``."""
    if isinstance(limit.algorithm, Quota):
        return "quota_exceeded"
    return "concurrency_exceeded" if isinstance(limit.algorithm, Concurrency) else "rate_limited"


def limit_message(limit: Limit, wait_us: int | None) -> str:
    """Why ``limit`` refuses, and when it no longer would; ``None`` where the cost can never fit."""
    name, requests, unit = limit.name, limit.algorithm.ceiling, limit.unit
    if wait_us is None:
        return f"The request costs more than the limit {name!a} ever allows ({requests} {unit})."
    return f"The limit {name!a} ({requests} {unit}) is used up. Try again in {-(-wait_us // SECOND_US)} s."
