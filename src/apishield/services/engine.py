"""The verdict: one check in, one decision out, in the order of the design; cheap steps first, one store call at the end.

Owns: the order of the steps, the texts of refusals, choosing the counters, rendering the decision.
Does not own: what is known (``snapshot``), how counters decide (``CounterStore``), how HTTP asks (``api.dataplane``).

``check`` answers at once where no step has to wait (every key known, counters in memory), and else an awaitable: a caller
that need not await does not pay for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from time import perf_counter
from typing import Final, Protocol

import msgspec

from apishield.core.abuse_detector.addresses import Address, parse_address, within
from apishield.core.abuse_detector.blocklist import Blocklist
from apishield.core.counter_keys import once_key, record_key
from apishield.core.decision import CheckRequest, Decision, Denial
from apishield.core.decision_ids import DecisionIds
from apishield.core.endpoints import METHODS, CatalogueEntry
from apishield.core.key_manager import lifecycle
from apishield.core.key_manager.format import inspect
from apishield.core.key_manager.scopes import default_scope, satisfies
from apishield.core.model import MAX_UNITS, SECOND_US, Concurrency, Counter, Once, Outcome, Repeat, Verdict
from apishield.core.paths import BadPathError, normalise
from apishield.core.policies import Facts, Meter
from apishield.core.ports import Clock, CounterStore, Hold
from apishield.core.records import Environment, KeyKind
from apishield.core.rendering import Rendered, render
from apishield.errors import PROBLEMS, StoreUnavailable
from apishield.redaction import redact
from apishield.services.asked import Asked
from apishield.services.key_entries import KeyEntry
from apishield.services.snapshot import Snapshot, TenantView

STALE_AFTER_US: Final = 5 * SECOND_US
_LONGEST_METHOD: Final = 16
_LONGEST_SECRET: Final = 512
_TOO_MUCH: Final = MAX_UNITS + 1
_NO_QUESTION: Final = CheckRequest()
_NOTHING: Final = Verdict(admitted=True, now_us=0, outcomes=[])

_KEY_REFUSALS: Final = {
    "key_revoked": "This API key was revoked. Ask whoever gave it to you for a new one.",
    "key_expired": "This API key has expired. Ask whoever gave it to you for a new one.",
    "key_disabled": "This API key is disabled. Its owner can enable it again.",
}


_MALFORMED: Final = Denial(
    "key_malformed", "This API key is mistyped or cut off: its checksum is wrong. Copy it again, whole."
)
_UNKNOWN: Final = Denial("key_unknown", "This API key is unknown here. Check that it belongs to this API.")
_ROTATED: Final = Denial("key_expired", "This API key was rotated and its grace is over. Use the new secret.")
_WRONG_KIND: Final = Denial(
    "key_wrong_kind",
    "This is a service key: it lets an SDK or gateway ask for verdicts and can't call the API. "
    "Make a caller key with POST /v1/keys.",
)
_KEY_MISSING: Final = Denial("key_missing", "Send an API key in X-API-Key, or in Authorization: Bearer.")
_STALE: Final = Denial(
    "stale", "The service lost its database and no longer trusts what it knows of keys. Try again later."
)
_STORE_GONE: Final = Denial(
    "store_unavailable", "The limits can't be checked now, and this one denies then. Try again later."
)
_BLOCKED: Final = Denial("blocked", "Requests from this address are blocked.")
_BLOCKED_COUNTRY: Final = Denial("blocked", "Requests from this country are blocked.")
_BLOCKED_NETWORK: Final = Denial("blocked", "Requests from this network are blocked.")
_BLOCKED_KEY: Final = Denial("blocked", "This API key is blocked.")
_OTHER_QUESTION: Final = Denial(
    "bad_request",
    "This check_id was used for another question within the last minute. Give each check one of its own.",
)
_CHALLENGE: Final = 'Bearer realm="api"'


class Recorder(Protocol):
    """Takes note of every decision, for the ledger and the metrics. Must be quick and never raise."""

    def record(self, asked: Asked, decision: Decision, now_us: int) -> None:
        """Notes one decision about what was asked."""
        ...

    def record_shadow(
        self, tenant_id: str, counters: Sequence[Counter], outcomes: Sequence[Outcome], now_us: int
    ) -> None:
        """Notes what limits in shadow say of a check that was let through; ``outcomes`` are parallel to ``counters``."""
        ...


class Engine:
    """Decides checks. One per process; holds no state of its own but the sequence of decision ids."""

    def __init__(
        self,
        snapshot: Snapshot,
        store: CounterStore,
        ids: DecisionIds,
        clock: Clock,
        recorder: Recorder,
        *,
        snapshot_max_age_us: int = 300 * SECOND_US,
        observe_store: Callable[[float], None] = lambda _seconds: None,
        draft_headers: bool = True,
        legacy_headers: bool = True,
    ) -> None:
        self._snapshot = snapshot
        self._store = store
        self._ids = ids
        self._clock = clock
        self._recorder = recorder
        self._max_age_us = snapshot_max_age_us
        self._observe_store = observe_store
        self._draft_headers = draft_headers
        self._legacy_headers = legacy_headers

    def check(self, view: TenantView, request: CheckRequest) -> Decision | Awaitable[Decision]:
        """Decides one check of the tenant that asks. Never raises: a refusal is a decision."""
        if not request.api_key:
            return self._decide(view, request, None, None)
        entry, denial = self._identify(view, request.api_key)
        if entry is None and denial is None:
            return self._check_after_catch_up(view, request, request.api_key)
        return self._decide(view, request, entry, denial)

    def refuse(self, view: TenantView, code: str, message: str) -> Decision:
        """A decision about a question that could not be read."""
        return self._refuse(Asked(view, _NO_QUESTION), Denial(code, message), self._clock())

    def new_request_id(self) -> str:
        """An id for a request that ends without a decision."""
        return "req_" + self._ids.make("", self._clock())[4:30]

    def _identify(self, view: TenantView, secret: str) -> tuple[KeyEntry | None, Denial | None]:
        """The tenant's key with this secret, or why there is none; neither, where only the database could tell."""
        if len(secret) > _LONGEST_SECRET:
            return None, _UNKNOWN
        found = self._snapshot.key_of(view, secret)
        if found is None:
            # Only a secret that nobody has here is looked at closely: a wrong checksum never costs a look into the database.
            inspection = inspect(secret)
            return None, None if inspection.kind is None or inspection.intact else _MALFORMED
        entry, stored = found
        if stored.expires_at_us is not None and self._clock() >= stored.expires_at_us:
            return entry, _ROTATED
        return entry, None

    async def _check_after_catch_up(self, view: TenantView, request: CheckRequest, secret: str) -> Decision:
        """A key that is well-formed but unknown may have been made on another node a moment ago: look once more."""
        with contextlib.suppress(Exception):  # the feed's own loop tells of a database that can't be reached
            await self._snapshot.shared_catch_up()
        view = self._snapshot.tenant(view.tenant.id) or view
        entry, denial = self._identify(view, secret)
        if entry is None and denial is None:
            denial = _UNKNOWN
        decision = self._decide(view, request, entry, denial)
        return decision if isinstance(decision, Decision) else await decision

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _decide(
        self, view: TenantView, request: CheckRequest, entry: KeyEntry | None, key_denial: Denial | None
    ) -> Decision | Awaitable[Decision]:
        now_us = self._clock()
        asked = Asked(view, request)
        asked.entry = entry
        denial = self._steps_before_limits(asked, request, now_us, key_denial)
        if denial is not None:
            return self._refuse(asked, denial, now_us)
        if request.check_id is not None:
            return self._decide_once(asked, request.check_id, now_us)
        if not asked.counters:
            return self._answer(asked, _NOTHING, now_us)
        costs = _costs(request.cost, asked)
        hold: Hold | None = None
        if asked.takes_slots or request.reserve:
            asked.check_id = self._ids.make(view.tenant.id, now_us, held=True)  # names the slots and the record
            asked.sequence = self._ids.sequence
            asked.held = True
            hold = _hold(asked, request)
        try:
            verdict = self._store.decide(asked.counters, costs, asked.check_id, hold)
        except StoreUnavailable:
            return self._refuse(asked, _STORE_GONE, now_us)
        if isinstance(verdict, Verdict):
            return self._answer(asked, verdict, verdict.now_us)
        return self._answer_later(asked, verdict, now_us)

    def _decide_once(self, asked: Asked, check_id: str, now_us: int) -> Decision | Awaitable[Decision]:
        """Decides a check that may be asked again; in one step the store finds the first decision, or makes this the first."""
        request, tenant_id = asked.request, asked.view.tenant.id
        asked.held = bool(asked.counters) and (asked.takes_slots or request.reserve)
        asked.check_id = self._ids.make(tenant_id, now_us, held=asked.held)
        asked.sequence = self._ids.sequence
        hold = _hold(asked, request) if asked.held else None
        once = Once(once_key(tenant_id, check_id), _digest(request))
        try:
            verdict = self._store.decide_once(once, asked.counters, _costs(request.cost, asked), asked.check_id, hold)
        except StoreUnavailable:
            return self._refuse(asked, _STORE_GONE, now_us)
        if isinstance(verdict, Verdict):
            return self._answer_once(asked, verdict, once)
        return self._answer_later(asked, verdict, now_us, once)

    def _steps_before_limits(
        self, asked: Asked, request: CheckRequest, now_us: int, key_denial: Denial | None
    ) -> Denial | None:
        view, entry = asked.view, asked.entry
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
        if method is not None and method not in METHODS:
            given, method = method, method.upper()
            if not (method.isascii() and method.isalpha() and len(method) <= _LONGEST_METHOD):
                return Denial("bad_request", f"method is {redact(given[:32])!a}; give an HTTP method such as GET.")
        asked.method = method
        if view.endpoints and method is not None and path is not None:
            asked.endpoint = view.catalogue.find(method, path)
        # 2 allowlist, 3 blocklist
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
                return _STALE
        if entry is None:
            needs_key = (
                view.tenant.require_key
                if request.require_key is None
                else request.require_key or view.tenant.require_key
            )
            if needs_key or request.scopes or (asked.endpoint is not None and asked.endpoint.required_scopes):
                return _KEY_MISSING
        else:
            denial = self._key_refused(asked, entry, request, address, method, now_us)
            if denial is not None:
                return denial
        # 6 choose the counters
        self._choose_counters(asked, request, method, path, address, now_us)
        return None

    def _blocked(self, view: TenantView, request: CheckRequest, address: Address | None, now_us: int) -> Denial | None:
        operator_blocks = self._snapshot.operator_blocks
        if operator_blocks:  # no tenant's allow lifts the operator's block
            if address is not None and operator_blocks.of_address(address, now_us) is not None:
                return _BLOCKED
            if (denial := _named_block(operator_blocks, request, now_us)) is not None:
                return denial
        blocks = view.blocks
        if not blocks:
            return None
        allows = view.allows
        if allows and address is not None and allows.of_address(address, now_us) is not None:
            return None
        if address is not None and blocks.of_address(address, now_us) is not None:
            return _BLOCKED
        return _named_block(blocks, request, now_us)

    def _key_refused(
        self,
        asked: Asked,
        entry: KeyEntry,
        request: CheckRequest,
        address: Address | None,
        method: str | None,
        now_us: int,
    ) -> Denial | None:
        view, key = asked.view, entry.key
        if key.kind is KeyKind.SERVICE:
            return _WRONG_KIND
        code = lifecycle.refusal(key, now_us)
        if code is not None:
            return Denial(code, _KEY_REFUSALS[code])
        operator_blocks = self._snapshot.operator_blocks
        if operator_blocks and operator_blocks.of_name("key_id", key.id, now_us) is not None:
            return _BLOCKED_KEY
        if (
            view.blocks
            and view.blocks.of_name("key_id", key.id, now_us) is not None
            and view.allows.of_name("key_id", key.id, now_us) is None
        ):
            return _BLOCKED_KEY
        if entry.networks and (address is None or not within(address, entry.networks)):
            return Denial("ip_not_allowed", "This API key may only be used from the addresses that its owner listed.")
        for scope in _needed_scopes(request, asked.endpoint, method):
            if scope not in key.scopes and not satisfies(key.scopes, scope):
                return Denial("scope_missing", f"This API key lacks the scope {scope[:100]!a}.")
        return None

    def _choose_counters(
        self,
        asked: Asked,
        request: CheckRequest,
        method: str | None,
        path: str | None,
        address: Address | None,
        now_us: int,
    ) -> None:
        view, entry = asked.view, asked.entry
        if entry is not None:
            limits = entry.limits
            asked.counters, asked.meters, asked.takes_slots = limits.counters, limits.meters, limits.takes_slots
        key = None if entry is None else entry.key
        environment = Environment.LIVE if key is None else key.environment
        scopes = () if key is None else key.scopes
        selection = view.policy_plan.selection(has_key=key is not None, environment=environment, scopes=scopes)
        if selection.is_empty:
            return
        facts = Facts(
            tenant_id=view.tenant.id,
            environment=environment,
            method=method,
            path=path,
            endpoint=None if asked.endpoint is None else asked.endpoint.subject,
            ip=None if address is None else address.counted,
            key_id=None if key is None else key.id,
            customer_id=None if key is None else key.customer_id,
            attributes=request.attributes,
        )
        matched = [found for policy in selection.matching(facts) if (found := policy.ask(facts, now_us)) is not None]
        if matched:
            asked.counters = (*asked.counters, *[counter for counter, _ in matched])
            asked.meters = (*asked.meters, *[meter for _, meter in matched])
            asked.takes_slots = any(meter.takes_slots for meter in asked.meters)

    # --- the answer ---------------------------------------------------------------------------------------------------

    async def _answer_later(
        self, asked: Asked, pending: Awaitable[Verdict], now_us: int, once: Once | None = None
    ) -> Decision:
        asked_at = perf_counter()
        try:
            verdict = await pending
        except StoreUnavailable:
            return self._refuse(asked, _STORE_GONE, now_us)
        self._observe_store(perf_counter() - asked_at)
        if once is not None:
            return self._answer_once(asked, verdict, once)
        return self._answer(asked, verdict, verdict.now_us)

    def _answer_once(self, asked: Asked, verdict: Verdict, once: Once) -> Decision:
        """The decision of a check with a ``check_id``: where it is a repeat, the earlier one, which was noted then."""
        if not isinstance(verdict, Repeat):
            return self._answer(asked, verdict, verdict.now_us)
        if verdict.question != once.question:
            asked.check_id, asked.held = "", False
            return self._refuse(asked, _OTHER_QUESTION, verdict.now_us)
        asked.check_id = verdict.decision_id
        if verdict.denied:
            rendered = Rendered(_STORE_GONE.code, _STORE_GONE.message, [], [], None, {})
        else:
            meters = [Meter(counter.limit, policy_id=counter.policy_id) for counter in verdict.counters]
            rendered = render(meters, verdict, draft=self._draft_headers, legacy=self._legacy_headers)
        return self._conclude(asked, rendered, verdict.now_us, verdict.degraded, noted=False)

    def _refuse(self, asked: Asked, denial: Denial, now_us: int) -> Decision:
        return self._conclude(asked, Rendered(denial.code, denial.message, [], [], None, {}), now_us, asked.degraded)

    def _answer(self, asked: Asked, verdict: Verdict, now_us: int) -> Decision:
        if verdict.denied:
            asked.degraded = True
            return self._refuse(asked, _STORE_GONE, now_us)
        rendered = render(asked.meters, verdict, draft=self._draft_headers, legacy=self._legacy_headers)
        if rendered.shadow and verdict.admitted and not asked.peek:
            self._recorder.record_shadow(asked.view.tenant.id, asked.counters, verdict.outcomes, now_us)
        return self._conclude(asked, rendered, now_us, asked.degraded or verdict.degraded)

    def _conclude(
        self, asked: Asked, rendered: Rendered, now_us: int, degraded: bool, *, noted: bool = True
    ) -> Decision:
        """The decision, with its id and the headers that are its own; ``noted`` unless it was before."""
        view, entry, code, headers = asked.view, asked.entry, rendered.code, rendered.headers
        allowed = code == "ok"
        status = 200 if allowed else PROBLEMS[code].status
        decision_id = asked.check_id
        if not decision_id:
            decision_id = self._ids.make(view.tenant.id, now_us)
            asked.sequence = self._ids.sequence
        headers["X-APIShield-Decision"] = decision_id
        if status == 401:
            headers["WWW-Authenticate"] = _CHALLENGE
        if degraded:
            headers["X-APIShield-Degraded"] = "true"
        decision = Decision(
            allowed,
            code,
            status,
            rendered.message,
            decision_id,
            view.tenant.id,
            None if entry is None else entry.view,
            rendered.limits,
            rendered.shadow,
            rendered.retry_after,
            headers,
            degraded,
            rendered.omitted,
        )
        if noted:
            self._recorder.record(asked, decision, now_us)
        return decision


def _needed_scopes(request: CheckRequest, endpoint: CatalogueEntry | None, method: str | None) -> Sequence[str]:
    """What a key must hold: what its endpoint asks for, and what the check names; where neither does, the method's default."""
    required = None if endpoint is None else endpoint.required_scopes
    if required is None:
        if request.scopes is not None:
            return request.scopes
        return () if method is None else (default_scope(method),)
    return (*required, *request.scopes) if request.scopes else required


def _named_block(blocks: Blocklist, request: CheckRequest, now_us: int) -> Denial | None:
    """A block of the country or network (``attributes.asn``) that the check names."""
    if request.country is not None and blocks.of_name("country", request.country.upper(), now_us) is not None:
        return _BLOCKED_COUNTRY
    asn = None if request.attributes is None else request.attributes.get("asn")
    if asn is not None and blocks.of_name("asn", asn.upper().removeprefix("AS"), now_us) is not None:
        return _BLOCKED_NETWORK
    return None


def _hold(asked: Asked, request: CheckRequest) -> Hold:
    """What is kept of the check, so that its slots are freed or its estimate settled, on whatever node."""
    seconds = request.settle_within_seconds if request.reserve else 1
    for meter in asked.meters:
        if isinstance(meter.limit.algorithm, Concurrency):
            seconds = max(seconds, -(-meter.limit.algorithm.timeout_us // SECOND_US))
    key = record_key(asked.view.tenant.id, asked.check_id)
    return Hold(key, seconds, tuple(meter.cost for meter in asked.meters), request.reserve)


_encode_question = msgspec.json.Encoder(order="deterministic").encode


def _digest(request: CheckRequest) -> str:
    """Tells one question from another, whatever their ``check_id``; nothing of it can be read from this."""
    question = _encode_question(msgspec.structs.replace(request, check_id=None))
    return blake2b(question, digest_size=16).hexdigest()


def _costs(cost: int | Mapping[str, int] | None, asked: Asked) -> Sequence[int]:
    """What each counter is charged: its policy's cost times the check's (else the endpoint's, else 1), in its unit; bounded."""
    entry = asked.entry
    if cost is None:
        cost = 1 if asked.endpoint is None else asked.endpoint.cost
    if cost == 1 and entry is not None and asked.counters is entry.limits.counters:
        return entry.limits.unit_costs
    if isinstance(cost, int):
        return [min(cost * meter.cost, _TOO_MUCH) if meter.unit == "requests" else 0 for meter in asked.meters]
    return [min(cost.get(meter.unit, 0) * meter.cost, _TOO_MUCH) for meter in asked.meters]
