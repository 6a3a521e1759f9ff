"""The steps of a verdict that need no counter, cheap ones first, and the choice of the counters that the last one asks.

Owns: the order of these steps. Does not own: what is known (``snapshot``), the texts of refusals (``denials``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from apishield.core.abuse_detector.addresses import Address, parse_address, within
from apishield.core.abuse_detector.blocklist import Blocklist
from apishield.core.decision import CheckRequest, Denial
from apishield.core.endpoints import METHODS
from apishield.core.key_manager import lifecycle
from apishield.core.key_manager.format import inspect
from apishield.core.key_manager.scopes import default_scope, satisfies
from apishield.core.model import SECOND_US
from apishield.core.paths import BadPathError, normalise
from apishield.core.policies import Facts
from apishield.core.ports import Clock
from apishield.core.records import Environment
from apishield.redaction import redact
from apishield.services import denials
from apishield.services.asked import Asked
from apishield.services.key_entries import KeyEntry
from apishield.services.snapshot import Snapshot, TenantView

STALE_AFTER_US: Final = 5 * SECOND_US
_LONGEST_METHOD: Final = 16
_LONGEST_SECRET: Final = 512
_LIVE: Final = Environment.LIVE  # an enumeration's member is slow to look up
_NO_SCOPES: Final[tuple[str, ...]] = ()

Identified = tuple[KeyEntry | None, Denial | None]
"""The key of a check, if it has one that is known, and why it is refused already."""

NO_KEY: Final[Identified] = (None, None)
UNKNOWN: Final[Identified] = (None, denials.UNKNOWN)


class Screening:
    """Says why a check is refused before any limit is asked, or which counters are to be asked."""

    def __init__(self, snapshot: Snapshot, clock: Clock, *, max_age_us: int) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._max_age_us = max_age_us

    def identify(self, view: TenantView, secret: str, now_us: int) -> Identified | None:
        """The tenant's key with this secret, and why it is refused; ``None``, where only the database could tell."""
        if len(secret) > _LONGEST_SECRET:
            return UNKNOWN
        found = self._snapshot.key_of(view, secret)
        if found is None:
            # Only a secret that nobody has here is looked at closely: a wrong checksum never costs a look into the database.
            inspection = inspect(secret)
            return None if inspection.kind is None or inspection.intact else (None, denials.MALFORMED)
        entry, stored = found
        if stored.expires_at_us is not None and now_us >= stored.expires_at_us:
            return entry, denials.ROTATED
        return entry, None

    def screen(self, view: TenantView, request: CheckRequest, now_us: int) -> Asked | None:
        """The check with why it is refused, or with its limits, which then decide; ``None`` where only the database could
        tell whose key it is.
        """
        if not request.api_key:
            return self.screen_known(view, request, NO_KEY, now_us)
        found = self.identify(view, request.api_key, now_us)
        return None if found is None else self.screen_known(view, request, found, now_us)

    def screen_known(self, view: TenantView, request: CheckRequest, found: Identified, now_us: int) -> Asked:
        """``screen``, of a check whose key was looked up."""
        asked = Asked(view, request, found[0])
        asked.denial = self._refusal(asked, now_us, found[1])
        return asked

    def _refusal(self, asked: Asked, now_us: int, key_denial: Denial | None) -> Denial | None:
        view, request, entry = asked.view, asked.request, asked.entry
        # 1 identify
        address: Address | None = None
        if request.ip is not None:
            address = parse_address(request.ip)
            if address is None:
                return Denial("bad_request", f"ip is {redact(request.ip[:64])!a}; give one IPv4 or IPv6 address.")
            asked.address = address
        path = request.path
        if path is not None:
            try:
                path = normalise(path)
            except BadPathError as error:
                return Denial("bad_request", f"The path can't be used: {error}.")
            asked.path = path
        method = request.method
        if method is not None:
            if method not in METHODS:
                given, method = method, method.upper()
                if not (method.isascii() and method.isalpha() and len(method) <= _LONGEST_METHOD):
                    return Denial("bad_request", f"method is {redact(given[:32])!a}; give an HTTP method such as GET.")
            asked.method = method
            if path is not None and view.endpoints:
                asked.endpoint = view.catalogue.find(method, path)
        # 2 allowlist, 3 blocklist
        if view.blocks.names_any or self._snapshot.operator_blocks.names_any:
            denial = self._blocked(view, request, address, now_us)
            if denial is not None:
                return denial
        # 4 key
        if key_denial is not None:
            return key_denial
        age_us = now_us - self._snapshot.fresh_at_us
        if age_us > STALE_AFTER_US:
            asked.degraded = True
            if entry is not None and age_us > self._max_age_us:
                return denials.STALE
        denial = self._no_key(asked) if entry is None else self._key_refused(asked, entry, now_us)
        if denial is not None:
            return denial
        # 6 choose the counters
        _choose_counters(asked, now_us)
        return None

    def _blocked(self, view: TenantView, request: CheckRequest, address: Address | None, now_us: int) -> Denial | None:
        operator_blocks = self._snapshot.operator_blocks
        if operator_blocks.names_any:  # no tenant's allow lifts the operator's block
            if address is not None and operator_blocks.of_address(address, now_us) is not None:
                return denials.BLOCKED
            if (denial := _named_block(operator_blocks, request, now_us)) is not None:
                return denial
        blocks = view.blocks
        if not blocks.names_any:
            return None
        allows = view.allows
        if allows.names_any and address is not None and allows.of_address(address, now_us) is not None:
            return None
        if address is not None and blocks.of_address(address, now_us) is not None:
            return denials.BLOCKED
        return _named_block(blocks, request, now_us)

    @staticmethod
    def _no_key(asked: Asked) -> Denial | None:
        request, tenant = asked.request, asked.view.tenant
        needs_key = tenant.require_key or bool(request.require_key)
        if needs_key or request.scopes or (asked.endpoint is not None and asked.endpoint.required_scopes):
            return denials.KEY_MISSING
        return None

    def _key_refused(self, asked: Asked, entry: KeyEntry, now_us: int) -> Denial | None:
        if entry.is_service_key:
            return denials.WRONG_KIND
        key = entry.key
        if now_us >= entry.usable_until_us:
            code = lifecycle.refusal(key, now_us)
            if code is not None:
                return denials.BY_STATE[code]
        blocks, operator_blocks = asked.view.blocks, self._snapshot.operator_blocks
        if operator_blocks.names_any and operator_blocks.of_name("key_id", key.id, now_us) is not None:
            return denials.BLOCKED_KEY
        if (
            blocks.names_any
            and blocks.of_name("key_id", key.id, now_us) is not None
            and asked.view.allows.of_name("key_id", key.id, now_us) is None
        ):
            return denials.BLOCKED_KEY
        if entry.networks and (asked.address is None or not within(asked.address, entry.networks)):
            return denials.IP_NOT_ALLOWED
        for scope in _needed_scopes(asked):
            if scope not in key.scopes and not satisfies(key.scopes, scope):
                return Denial("scope_missing", f"This API key lacks the scope {scope[:100]!a}.")
        return None


def _needed_scopes(asked: Asked) -> Sequence[str]:
    """What a key must hold: what its endpoint asks for, and what the check names; where neither does, the method's default."""
    given = asked.request.scopes
    required = None if asked.endpoint is None else asked.endpoint.required_scopes
    if required is None:
        if given is not None:
            return given
        return () if asked.method is None else (default_scope(asked.method),)
    return (*required, *given) if given else required


def _named_block(blocks: Blocklist, request: CheckRequest, now_us: int) -> Denial | None:
    """A block of the country or network (``attributes.asn``) that the check names."""
    if request.country is not None and blocks.of_name("country", request.country.upper(), now_us) is not None:
        return denials.BLOCKED_COUNTRY
    asn = None if request.attributes is None else request.attributes.get("asn")
    if asn is not None and blocks.of_name("asn", asn.upper().removeprefix("AS"), now_us) is not None:
        return denials.BLOCKED_NETWORK
    return None


def _choose_counters(asked: Asked, now_us: int) -> None:
    """The counters of the key, of its customer, and of the policies that match."""
    view, entry = asked.view, asked.entry
    if entry is not None:
        limits = entry.limits
        asked.counters, asked.meters, asked.takes_slots = limits.counters, limits.meters, limits.takes_slots
        asked.unit_costs = limits.unit_costs
    plan = view.policy_plan
    if (
        plan.is_empty if entry is None else plan.is_empty_for_keys
    ):  # as it is of most tenants: their policy is for strangers
        return
    key = None if entry is None else entry.key
    environment = _LIVE if key is None else key.environment
    scopes = _NO_SCOPES if key is None else key.scopes
    selection = plan.selection(has_key=key is not None, environment=environment, scopes=scopes)
    if selection.is_empty:
        return
    address = asked.address
    facts = Facts(
        tenant_id=view.tenant.id,
        environment=environment,
        method=asked.method,
        path=asked.path,
        endpoint=None if asked.endpoint is None else asked.endpoint.subject,
        ip=None if address is None else address.counted,
        key_id=None if key is None else key.id,
        customer_id=None if key is None else key.customer_id,
        attributes=asked.request.attributes,
    )
    matched = [found for policy in selection.matching(facts) if (found := policy.ask(facts, now_us)) is not None]
    if matched:
        asked.counters = (*asked.counters, *[counter for counter, _ in matched])
        asked.meters = (*asked.meters, *[meter for _, meter in matched])
        asked.unit_costs = None
        asked.takes_slots = any(meter.takes_slots for meter in asked.meters)
