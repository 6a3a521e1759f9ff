"""The headers that tell a caller where it stands, rendered once from a decision's limits, for every way in.

``RateLimit-Policy`` and ``RateLimit`` follow draft-ietf-httpapi-ratelimit-headers-10: lists of structured-field strings
(RFC 9651) with the parameters ``q``, ``qu``, ``w`` and ``r``, ``t``. The legacy trio ``X-RateLimit-*`` speaks of the most
restrictive limit. ``Retry-After`` (RFC 9110, section 10.2.3) goes with 429 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from apishield.core.model import SECOND_US, Concurrency, Limit, Quota, TokenBucket
from apishield.core.outcome import Outcome

MOST: Final = 999_999_999_999_999
"""The greatest integer of a structured field (RFC 9651, section 3.3.1): a bucket may take 84 million years to fill."""

_PERIOD_SECONDS = {"day": 86_400, "month": 31 * 86_400}
_QUOTA_UNITS = {"requests": "requests", "bytes": "content-bytes"}


def quoted(name: str) -> str:
    """``name`` as a structured-field string: printable ASCII, quotes and backslashes escaped (RFC 9651, section 4.1.6)."""
    printable = "".join(character if " " <= character <= "~" else "?" for character in name)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


def window_seconds(limit: Limit) -> float | None:
    """The length of the limit's window; ``None`` where it has none (concurrency). A month counts as its longest, 31 days."""
    algorithm = limit.algorithm
    if isinstance(algorithm, Concurrency):
        return None
    if isinstance(algorithm, Quota):
        return _PERIOD_SECONDS[algorithm.period]
    seconds, rest = divmod(algorithm.window_us, SECOND_US)
    return algorithm.window_us / SECOND_US if rest else seconds


def policy_item(limit: Limit) -> str:
    """The limit as one member of ``RateLimit-Policy``."""
    item = f"{quoted(limit.name)};q={limit.algorithm.ceiling}"
    if isinstance(limit.algorithm, Concurrency):
        return item + ';qu="concurrent-requests"'
    if limit.unit != "requests":
        item += f";qu={quoted(_QUOTA_UNITS.get(limit.unit, limit.unit))}"
    window = _quota_window_seconds(limit)
    return item if window is None else f"{item};w={min(-int(-window // 1), MOST)}"


def _quota_window_seconds(limit: Limit) -> float | None:
    """In which time ``q`` units come back: the window, of a bucket the time to fill it."""
    algorithm = limit.algorithm
    if isinstance(algorithm, TokenBucket):
        return algorithm.burst * algorithm.window_us / algorithm.requests / SECOND_US
    return window_seconds(limit)


class Shown(Protocol):
    """A limit, as far as headers tell of it; the parts that never change are rendered beforehand."""

    @property
    def ceiling(self) -> int:
        """The most that can be used before something comes back."""
        ...

    @property
    def ceiling_text(self) -> str:
        """The ceiling in digits."""
        ...

    @property
    def quoted_name(self) -> str:
        """The name as a structured-field string."""
        ...

    @property
    def policy_item(self) -> str:
        """The limit as one member of ``RateLimit-Policy``."""
        ...


def restriction(standing: tuple[Shown, Outcome]) -> tuple[bool, float, int]:
    """Sorts limits from the most restrictive: violated ones (longest wait) first, then the smallest part that remains."""
    shown, outcome = standing
    if outcome.admitted:
        return True, outcome.remaining / shown.ceiling, -outcome.reset_us
    wait_us = outcome.retry_after_us
    return False, -wait_us if wait_us is not None else float("-inf"), 0


Standings = Sequence[tuple[Shown, Outcome]]
"""Limits and how they stand, the most restrictive first."""


def rate_limit_headers(limits: Standings, now_us: int, *, draft: bool = True, legacy: bool = True) -> dict[str, str]:
    """The headers of ``limits``."""
    if not limits:
        return {}
    shown, outcome = limits[0]
    left, reset_us = f"{outcome.remaining if outcome.remaining > 0 else 0}", outcome.reset_us
    wait = -(-reset_us // SECOND_US)
    policy, standing = shown.policy_item, f"{shown.quoted_name};r={left};t={wait if wait < MOST else MOST}"
    if len(limits) > 1:
        for other, its in limits[1:]:
            rest, wait = its.remaining, -(-its.reset_us // SECOND_US)
            policy = f"{policy}, {other.policy_item}"
            standing = f"{standing}, {other.quoted_name};r={rest if rest > 0 else 0};t={wait if wait < MOST else MOST}"
    headers = {  # in one piece: a dictionary that grows costs more than what goes into it
        "RateLimit-Policy": policy,
        "RateLimit": standing,
        "X-RateLimit-Limit": shown.ceiling_text,
        "X-RateLimit-Remaining": left,
        "X-RateLimit-Reset": f"{-(-(now_us + reset_us) // SECOND_US)}",
    }
    if draft and legacy:
        return headers
    return {name: value for name, value in headers.items() if (legacy if name.startswith("X-") else draft)}
