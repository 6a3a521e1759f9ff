"""Every call of the service, once: how its request is built and what its answer is. The clients only send them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, Unpack
from urllib.parse import quote, urlencode

import msgspec
from msgspec.structs import replace

from apishield.client.models import (
    APIKey,
    Block,
    BlockSubject,
    CheckBatch,
    CheckRequest,
    Cost,
    Customer,
    CustomerChanges,
    CustomerFields,
    Decision,
    DecisionBatch,
    Endpoint,
    EndpointFields,
    EndpointImport,
    KeyChanges,
    KeyFields,
    KeyUsage,
    LimitSpec,
    Page,
    Policy,
    PolicyChanges,
    PolicyFields,
    PolicyReplay,
    Released,
    Report,
    ReportBatch,
    ReportResult,
    ShadowReport,
    Tenant,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Method = Literal["GET", "POST", "PATCH", "DELETE"]
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """One request, and the type that its answer is read as.

    ``repeatable`` calls may be sent again when no answer came: they change nothing, or the service knows them again.
    """

    method: Method
    path: str
    answer: type[T_co]
    body: bytes | None = None
    data_plane: bool = False
    repeatable: bool = False
    idempotency_key: str | None = None


def check(
    *,
    api_key: str | None = None,
    ip: str | None = None,
    method: str | None = None,
    path: str | None = None,
    user_agent: str | None = None,
    cost: Cost | None = None,
    scopes: Iterable[str] | None = None,
    country: str | None = None,
    attributes: Mapping[str, str] | None = None,
    require_key: bool | None = None,
    reserve: bool = False,
    settle_within_seconds: int | None = None,
    check_id: str | None = None,
) -> Call[Decision]:
    """Asks whether a request may pass, and charges its ``cost`` where it may (0 only looks).

    Without a ``cost`` it is what the catalogue says of the endpoint, else 1. With ``reserve`` it is an estimate: report the
    decision with the true ``cost`` within ``settle_within_seconds`` (an hour, if not given).

    It goes under a ``check_id``, a random one if none is given, by which the service knows it again for a minute: so it may
    be sent again where no answer came, and is charged once.
    """
    request = CheckRequest(
        api_key=api_key,
        ip=ip,
        method=method,
        path=path,
        user_agent=user_agent,
        cost=dict(cost) if isinstance(cost, Mapping) else cost,
        scopes=None if scopes is None else list(scopes),
        country=country,
        attributes=None if attributes is None else dict(attributes),
        require_key=require_key,
        reserve=reserve,
        check_id=check_id or _check_id(),
    )
    if settle_within_seconds is not None:
        request = replace(request, settle_within_seconds=settle_within_seconds)
    return check_one(request)


def check_one(request: CheckRequest) -> Call[Decision]:
    """``check``, of a question as it is. Without a ``check_id`` it is never sent again where it may have arrived."""
    body = _encoder.encode(request)
    return Call("POST", "/v1/check", Decision, body, data_plane=True, repeatable=request.check_id is not None)


def check_batch(checks: Iterable[CheckRequest]) -> Call[DecisionBatch]:
    """Asks up to 1,000 questions at once; ``results`` has their decisions in order. Each goes under a ``check_id``."""
    return check_all([replace(check, check_id=check.check_id or _check_id()) for check in checks])


def check_all(checks: Sequence[CheckRequest]) -> Call[DecisionBatch]:
    """``check_batch``, of questions as they are. Where one has no ``check_id``, they are never sent again."""
    body = _encoder.encode(CheckBatch(list(checks)))
    repeatable = all(check.check_id is not None for check in checks)
    return Call("POST", "/v1/check/batch", DecisionBatch, body, data_plane=True, repeatable=repeatable)


def report(events: Iterable[Report]) -> Call[ReportResult]:
    """Tells what became of allowed requests, up to 1,000 at once. A repeated report counts once."""
    body = _encoder.encode(ReportBatch(list(events)))
    return Call("POST", "/v1/report", ReportResult, body, data_plane=True, repeatable=True)


def release(decision_id: str) -> Call[Released]:
    """Gives back the whole charge of a check that reserved, and the slots of one that holds some."""
    path = f"/v1/decisions/{_segment(decision_id)}/release"
    return Call("POST", path, Released, b"{}", data_plane=True, repeatable=True)


def create_tenant(name: str, *, plan: str = "starter", metadata: Mapping[str, Any] | None = None) -> Call[Tenant]:
    """Makes a tenant, with its token and its first service key: both are given only here."""
    body = {"name": name, "plan": plan} | ({} if metadata is None else {"metadata": metadata})
    # Without a credential the service ignores an Idempotency-Key, so this one is never sent twice.
    return Call("POST", "/v1/tenants", Tenant, _encoder.encode(body))


def get_tenant() -> Call[Tenant]:
    """The token's own tenant."""
    return _get("/v1/tenant", Tenant)


def create_key(name: str, **fields: Unpack[KeyFields]) -> Call[APIKey]:
    """Makes an API key; ``key`` of the answer is its secret, given only here."""
    return _post("/v1/keys", {"name": name, **fields}, APIKey)


def get_key(key_id: str) -> Call[APIKey]:
    """One key."""
    return _get(f"/v1/keys/{_segment(key_id)}", APIKey)


def list_keys(
    *,
    status: str | None = None,
    customer_id: str | None = None,
    q: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[Page[APIKey]]:
    """A page of keys, newest first; ``q`` searches their names and hints."""
    return _list("/v1/keys", Page[APIKey], status=status, customer_id=customer_id, q=q, limit=limit, cursor=cursor)


def update_key(key_id: str, **changes: Unpack[KeyChanges]) -> Call[APIKey]:
    """Changes what is named, and nothing else."""
    return _patch(f"/v1/keys/{_segment(key_id)}", changes, APIKey)


def rotate_key(key_id: str, *, grace_seconds: int = 0) -> Call[APIKey]:
    """Gives a key a new secret; the old one works for ``grace_seconds`` more."""
    return _post(f"/v1/keys/{_segment(key_id)}/rotate", {"grace_seconds": grace_seconds}, APIKey)


def revoke_key(key_id: str) -> Call[APIKey]:
    """Ends a key for good."""
    return _post(f"/v1/keys/{_segment(key_id)}/revoke", {}, APIKey)


def get_key_usage(key_id: str) -> Call[KeyUsage]:
    """What a key has used; charges nothing."""
    return _get(f"/v1/keys/{_segment(key_id)}/usage", KeyUsage)


def create_customer(name: str, **fields: Unpack[CustomerFields]) -> Call[Customer]:
    """Makes a customer, whose keys share its limits."""
    return _post("/v1/customers", {"name": name, **fields}, Customer)


def get_customer(customer_id: str) -> Call[Customer]:
    """One customer."""
    return _get(f"/v1/customers/{_segment(customer_id)}", Customer)


def list_customers(*, limit: int | None = None, cursor: str | None = None) -> Call[Page[Customer]]:
    """A page of customers."""
    return _list("/v1/customers", Page[Customer], limit=limit, cursor=cursor)


def update_customer(customer_id: str, **changes: Unpack[CustomerChanges]) -> Call[Customer]:
    """Changes what is named, and nothing else."""
    return _patch(f"/v1/customers/{_segment(customer_id)}", changes, Customer)


def delete_customer(customer_id: str) -> Call[None]:
    """Removes a customer."""
    return _delete(f"/v1/customers/{_segment(customer_id)}")


def create_policy(name: str, *, per: Iterable[str], limit: LimitSpec, **fields: Unpack[PolicyFields]) -> Call[Policy]:
    """Makes a policy: ``limit`` for each ``per``, such as ``["ip"]`` or ``["key", "endpoint"]``, of the checks it matches."""
    return _post("/v1/policies", {"name": name, "per": list(per), "limit": limit, **fields}, Policy)


def get_policy(policy_id: str) -> Call[Policy]:
    """One policy."""
    return _get(f"/v1/policies/{_segment(policy_id)}", Policy)


def list_policies(*, limit: int | None = None, cursor: str | None = None) -> Call[Page[Policy]]:
    """A page of policies, newest first."""
    return _list("/v1/policies", Page[Policy], limit=limit, cursor=cursor)


def update_policy(policy_id: str, **changes: Unpack[PolicyChanges]) -> Call[Policy]:
    """Changes what is named, and nothing else. Numbers change under live traffic and keep their state."""
    return _patch(f"/v1/policies/{_segment(policy_id)}", changes, Policy)


def delete_policy(policy_id: str) -> Call[None]:
    """Removes a policy."""
    return _delete(f"/v1/policies/{_segment(policy_id)}")


def get_policy_shadow(policy_id: str) -> Call[ShadowReport]:
    """What a policy would have refused in shadow, since its last change: how often, by day, and whom most."""
    return _get(f"/v1/policies/{_segment(policy_id)}/shadow", ShadowReport)


def create_endpoint(method: str, path: str, **fields: Unpack[EndpointFields]) -> Call[Endpoint]:
    """Puts an endpoint such as ``GET /orders/{id}`` into the catalogue."""
    return _post("/v1/endpoints", {"method": method, "path": path, **fields}, Endpoint)


def get_endpoint(endpoint_id: str) -> Call[Endpoint]:
    """One endpoint."""
    return _get(f"/v1/endpoints/{_segment(endpoint_id)}", Endpoint)


def list_endpoints(*, limit: int | None = None, cursor: str | None = None) -> Call[Page[Endpoint]]:
    """A page of the catalogue, newest first."""
    return _list("/v1/endpoints", Page[Endpoint], limit=limit, cursor=cursor)


def import_endpoints(document: Mapping[str, Any], *, base_path: str | None = None) -> Call[EndpointImport]:
    """Takes over the operations of an OpenAPI document, below ``base_path``, else below its first server's path."""
    query = "" if base_path is None else f"?{urlencode({'base_path': base_path})}"
    return _post(f"/v1/endpoints/import{query}", document, EndpointImport)


def delete_endpoint(endpoint_id: str) -> Call[None]:
    """Takes an endpoint out of the catalogue."""
    return _delete(f"/v1/endpoints/{_segment(endpoint_id)}")


def block(*, reason: str = "", duration_seconds: int | None = None, **subject: Unpack[BlockSubject]) -> Call[Block]:
    """Refuses an address, network, key or country; without a duration until it is lifted."""
    return _post("/v1/blocklist", {**subject, "reason": reason, "duration_seconds": duration_seconds}, Block)


def list_blocks(
    *,
    active: bool | None = None,
    source: str | None = None,
    ip: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[Page[Block]]:
    """A page of blocks; ``ip`` finds those that hold for an address."""
    return _list("/v1/blocklist", Page[Block], active=active, source=source, ip=ip, limit=limit, cursor=cursor)


def unblock(block_id: str) -> Call[None]:
    """Lifts a block."""
    return _delete(f"/v1/blocklist/{_segment(block_id)}")


def replay_policy(
    from_: str,
    *,
    to: str = "now",
    policy: str | None = None,
    limit: LimitSpec | None = None,
    per: Iterable[str] | None = None,
    match: Mapping[str, Any] | None = None,
    cost: int | None = None,
) -> Call[PolicyReplay]:
    """What a policy, or a limit, would have done to the traffic recorded since ``from_`` (``now-24h``, or RFC 3339).

    Where that takes longer than a moment the answer's ``status`` is ``running``: ask ``get_replay`` until it is not.
    """
    given = {"policy": policy, "limit": limit, "match": match, "cost": cost, "per": None if per is None else list(per)}
    body = {"from": from_, "to": to} | {name: value for name, value in given.items() if value is not None}
    return _post("/v1/policies/replay", body, PolicyReplay)


def get_replay(replay_id: str) -> Call[PolicyReplay]:
    """How far a replay is, and what came of it."""
    return _get(f"/v1/policies/replay/{_segment(replay_id)}", PolicyReplay)


def _get(path: str, answer: type[T]) -> Call[T]:
    return Call("GET", path, answer, repeatable=True)


def _list(path: str, answer: type[T], **query: str | int | bool | None) -> Call[T]:
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
        if value is not None
    }
    return _get(f"{path}?{urlencode(given)}" if given else path, answer)


def _post(path: str, body: Mapping[str, Any], answer: type[T]) -> Call[T]:
    # The key also encrypts the stored answer, hence random and never shown.
    key = secrets.token_urlsafe(24)
    return Call("POST", path, answer, _encoder.encode(body), repeatable=True, idempotency_key=key)


def _patch(path: str, body: Mapping[str, Any], answer: type[T]) -> Call[T]:
    return Call("PATCH", path, answer, _encoder.encode(body))


def _delete(path: str) -> Call[None]:
    return Call("DELETE", path, type(None))


def _check_id() -> str:
    return secrets.token_urlsafe(16)


def _segment(value: str) -> str:
    return quote(value, safe="")
