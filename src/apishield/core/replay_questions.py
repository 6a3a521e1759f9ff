"""Which counter a policy asks about a recorded decision.

Owns: what of a decision tells it from another, what is remembered of that. Does not own: how a policy matches and counts
(``policies``), which decisions it is asked about at all (``replay``).

Callers come again and again. Where the decision's own fields say all, the answer is remembered by just those that the policy
looks at, so that an address among 50,000 is known again whatever key it comes with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from apishield.core.abuse_detector.addresses import counted_address
from apishield.core.endpoints import ANY_METHOD
from apishield.core.events import TEST, DecisionEvent
from apishield.core.model import Counter
from apishield.core.policies import CompiledPolicy, Facts, Meter, PolicyPlan
from apishield.core.records import Environment, Policy
from apishield.core.remembered import Remembered

MOST_REMEMBERED: Final = 100_000
_MOST_PATHS: Final = 8_192  # few come again after a while
_SOMEBODY: Final = ""  # a key, of a policy that does not ask which
_FIELDS: Final = {"key": "key_id", "ip": "address", "endpoint": "endpoint", "customer": "customer_id"}

Place = tuple[Any, ...]


class Surroundings(msgspec.Struct, frozen=True):
    """What is known of the tenant besides its traffic, as it is now: events don't say it.

    ``scopes_of`` says which scopes a key holds, ``endpoints`` are the catalogue's, as limits count them.
    """

    plan: str
    scopes_of: Callable[[str], tuple[str, ...]]
    endpoints: frozenset[str] = frozenset()


class Question(msgspec.Struct, frozen=True, gc=False):
    """The counter that is asked, and the meter that says at what cost."""

    counter: Counter
    meter: Meter


class Questions:
    """What ``policy`` asks about its tenant's decisions. Remembers ``most`` answers at most."""

    def __init__(self, policy: Policy, surroundings: Surroundings, most: int = MOST_REMEMBERED) -> None:
        # Overrides end, and attributes are many: what depends on them is found out each time.
        self._is_plain = not (policy.overrides or policy.match.attributes or any(":" in part for part in policy.per))
        self._by_path = policy.match.path is not None
        caller = ("flags", "method", *(("key_id",) if policy.match.scopes else ()))
        asker = (*caller, "path")
        subject = (*caller, *(field for part, field in _FIELDS.items() if part in policy.per))
        self._asker_of: Callable[[DecisionEvent], Place] = attrgetter(*asker)
        self._subject_of: Callable[[DecisionEvent], Place] = attrgetter(*subject)
        self._asked = asked = _Asked(policy, surroundings, asker, subject)
        # What they call does not lead back to here: all is gone with the replay, and not when garbage is collected.
        self._known_matches = Remembered(min(most, _MOST_PATHS), asked.matches_at)
        self._known = Remembered(most, asked.ask_at)

    def __len__(self) -> int:
        """Of how many callers or paths it remembers what it said."""
        return max(len(self._known), len(self._known_matches))

    def forget(self, at_most: int) -> bool:
        """Forgets some of what it remembers. Returns whether there is more."""
        return self._known.forget(at_most)

    def ask(self, event: DecisionEvent, now_us: int) -> Question | None:
        """The counter of a decision; ``None`` where the policy does not apply to it."""
        if not self._is_plain:
            return self._asked.ask(event, now_us)
        is_stranger = event.key_id is None
        if self._by_path and not self._known_matches.ask(self._asker_of(event), is_stranger):
            return None
        return self._known.ask(self._subject_of(event), is_stranger)


class _Asked:
    """The policy, asked afresh.

    Whether it matches is said by the fields ``asker`` of a decision, and of what counter it is asked then by ``subject``.
    """

    def __init__(
        self, policy: Policy, surroundings: Surroundings, asker: Sequence[str], subject: Sequence[str]
    ) -> None:
        self._tenant_id = policy.tenant_id
        self._surroundings = surroundings
        self._compiled = CompiledPolicy(policy)
        self._plan = PolicyPlan(surroundings.plan, [self._compiled])
        self._by_address = "ip" in policy.per
        self._by_endpoint = "endpoint" in policy.per
        self._asker, self._subject = asker, subject
        self._by_scopes = bool(policy.match.scopes)
        self._by_path = policy.match.path is not None

    def matches_at(self, place: Place, is_stranger: bool) -> bool:
        """Whether the policy matches decisions that are the same in ``_asker``."""
        event = self._decision(self._asker, place, is_stranger)
        return self._matches(event, self._facts(event))

    def ask_at(self, place: Place, is_stranger: bool) -> Question | None:
        """``ask`` of all decisions that are the same in ``_subject``, and match in their path where the policy has one."""
        return self.ask(self._decision(self._subject, place, is_stranger), 0, matches=self._by_path)

    def _decision(self, fields: Sequence[str], place: Place, is_stranger: bool) -> DecisionEvent:
        """A decision that the policy can't tell from those at ``place``."""
        given = {"key_id": None if is_stranger else _SOMEBODY, **dict(zip(fields, place, strict=True))}
        return DecisionEvent(0, 0, self._tenant_id, "ok", **given)

    def ask(self, event: DecisionEvent, now_us: int, *, matches: bool = False) -> Question | None:
        """The counter of a decision, of which may be known that it ``matches``."""
        facts = self._facts(event)
        if not matches and not self._matches(event, facts):
            return None
        asked = self._compiled.ask(facts, now_us)
        return None if asked is None else Question(*asked)

    def _matches(self, event: DecisionEvent, facts: Facts) -> bool:
        key_id = event.key_id
        selection = self._plan.selection(
            has_key=key_id is not None,
            environment=facts.environment,
            scopes=self._surroundings.scopes_of(key_id) if key_id is not None and self._by_scopes else (),
        )
        return bool(selection.matching(facts))

    def _facts(self, event: DecisionEvent) -> Facts:
        return Facts(
            tenant_id=self._tenant_id,
            environment=Environment.TEST if event.flags & TEST else Environment.LIVE,
            method=event.method,
            path=event.path,
            endpoint=self._endpoint(event) if self._by_endpoint else None,
            ip=counted_address(event.address) if self._by_address and event.address is not None else None,
            key_id=event.key_id,
            customer_id=event.customer_id,
            attributes=event.attributes,
        )

    def _endpoint(self, event: DecisionEvent) -> str | None:
        """What limits counted the endpoint by; an event has only its template, whose method may be another's or any."""
        method, template = event.method, event.endpoint
        if template is None:
            return None
        for candidate in (method, "GET" if method == "HEAD" else ANY_METHOD, ANY_METHOD):
            subject = f"{candidate} {template}"
            if subject in self._surroundings.endpoints:
                return subject
        return f"{method} {template}"
