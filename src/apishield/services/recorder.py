"""Notes every decision: an event for the ledger, and the numbers of this process.

Owns: what of a check goes into its event. Does not own: where events lie (``stores.spool``), what becomes of them (``ledger``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Final

from apishield.core.decided import Decided
from apishield.core.endpoints import METHODS
from apishield.core.events import (
    CATALOGUED,
    DEGRADED,
    HELD,
    MAX_ATTRIBUTE,
    MAX_ATTRIBUTES,
    MAX_PATH,
    MAX_USER_AGENT,
    PEEK,
    TEST,
    DecisionEvent,
    Refusal,
    Units,
)
from apishield.core.model import SECOND_US, Counter
from apishield.core.outcome import Outcome
from apishield.core.ports import EventLog
from apishield.core.rendering import Rendered
from apishield.redaction import redact
from apishield.services.asked import Asked
from apishield.services.usage import UsageService

OTHER_METHOD: Final = "OTHER"
"""Stands for methods that are not HTTP's own: whoever invents some makes no series of them."""


class DecisionRecorder:
    """Takes note of every decision. Quick, and never raises."""

    def __init__(
        self,
        events: EventLog,
        usage: UsageService,
        decisions_by_code: MutableMapping[str, int],
        count_refusal: Callable[[str, str], None] = lambda _limit, _strategy: None,
    ) -> None:
        self.degraded_decisions = 0
        self._count_refusal = count_refusal
        self._append = events.append
        self._usage = usage
        self._decisions_by_code = decisions_by_code

    def record(self, asked: Asked, decided: Decided, now_us: int) -> None:
        """Notes one decision. A peek is a question: it is kept, and counts as no use."""
        rendered = decided.rendered
        code = rendered.code
        self._decisions_by_code[code] += 1
        entry, endpoint, request = asked.entry, asked.endpoint, asked.request
        flags = PEEK if request.cost == 0 else 0
        key_id = customer_id = None
        if entry is not None:
            key = entry.key
            key_id, customer_id = key.id, key.customer_id
            if not flags:
                self._usage.touch(key_id, now_us)
            if entry.is_test:
                flags |= TEST
        if decided.degraded:
            self.degraded_decisions += 1
            flags |= DEGRADED
        if asked.held:
            flags |= HELD
        template = None
        if endpoint is not None:
            flags |= CATALOGUED
            template = endpoint.endpoint.path
        path = asked.path
        if path is not None:
            if "_" in path and ("sk_" in path or "ast_" in path or "aso_" in path):
                path = redact(path)
            path = path[:MAX_PATH]
        method = asked.method
        if method is not None and method not in METHODS:
            method = OTHER_METHOD
        self._append(
            DecisionEvent(
                asked.sequence,
                now_us,
                asked.view.tenant.id,
                code,
                flags,
                key_id,
                customer_id,
                method,
                path,
                template,
                None if asked.address is None else asked.address.text,
                None if request.country is None else _country(request.country),
                _units(asked),
                None if request.user_agent is None else redact(request.user_agent[:MAX_USER_AGENT]),
                None if request.attributes is None else _attributes(request.attributes),
                rendered.message,
                None if code == "ok" else self._refusal(rendered),
            )
        )

    def _refusal(self, rendered: Rendered) -> Refusal | None:
        """The limit that refused, as it stood; ``None`` where it was something else."""
        if not rendered.enforced:
            return None
        meter, outcome = rendered.enforced[0]
        if outcome.admitted:
            return None
        self._count_refusal(meter.name, meter.strategy)
        return Refusal(
            meter.policy_id,
            meter.name,
            meter.strategy,
            meter.unit,
            meter.ceiling,
            max(outcome.remaining, 0),
            None if meter.window_seconds is None else round(meter.window_seconds * SECOND_US),
            None if rendered.retry_after is None else round(rendered.retry_after * SECOND_US),
        )

    def record_shadow(
        self, tenant_id: str, counters: Sequence[Counter], outcomes: Sequence[Outcome], now_us: int
    ) -> None:
        """Notes what limits in shadow say of a check that was let through."""
        self._usage.shadow.note(tenant_id, counters, outcomes, now_us)


def _units(asked: Asked) -> Units:
    cost = asked.request.cost
    if cost is not None:
        return cost
    return 1 if asked.endpoint is None else _plain(asked.endpoint.cost)


def _plain(cost: int | Mapping[str, int]) -> Units:
    return cost if isinstance(cost, int) else dict(cost)


def _country(country: str) -> str | None:
    """An ISO 3166 code, or nothing: invented ones make no series."""
    return country.upper() if len(country) == 2 and country.isascii() and country.isalpha() else None


def _attributes(attributes: dict[str, str]) -> dict[str, str]:
    if len(attributes) > MAX_ATTRIBUTES:
        attributes = dict(list(attributes.items())[:MAX_ATTRIBUTES])
    return {redact(name[:MAX_ATTRIBUTE]): redact(value[:MAX_ATTRIBUTE]) for name, value in attributes.items()}
