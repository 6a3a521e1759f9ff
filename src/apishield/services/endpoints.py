"""The catalogue of endpoints: the routes of a tenant's API, what scopes they ask for and what they cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import UNSET

from apishield.core import path_index
from apishield.core.endpoints import ANY_METHOD
from apishield.core.model import MAX_UNITS
from apishield.core.openapi_documents import COST, LOGIN, DocumentError, Operation, operations
from apishield.core.records import Actor, Endpoint
from apishield.errors import Fault, ProblemError
from apishield.services.audited import Audited
from apishield.services.base import Service, differing, hold_tenant, is_unchanged, not_found, refuse_over, tenant_of
from apishield.services.checks import Faults
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.audit import Event
from apishield.stores.sql.unit_of_work import UnitOfWork

MAX_UNITS_NAMED = 20

_METHOD = re.compile(r"[A-Z]{1,16}")


class EndpointDraft(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint to be made. There is one of a method and path, whatever its placeholders are called."""

    method: str
    path: str
    required_scopes: tuple[str, ...] | None = None
    cost: int | dict[str, int] = 1
    login: bool = False


class ImportedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one operation of a document, which stands at ``pointer``; a failed one has faults and no endpoint."""

    pointer: str
    method: str
    path: str
    outcome: Literal["created", "updated", "unchanged", "failed"]
    endpoint: Endpoint | None = None
    faults: tuple[Fault, ...] = ()


class EndpointService(Service):
    """A tenant's catalogue."""

    async def create(self, actor: Actor, draft: EndpointDraft) -> Endpoint:
        """Makes an endpoint."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            faults = Faults()
            endpoint = _checked(_made(tx, tenant.id, draft), faults)
            faults.raise_any()
            other = await tx.endpoints.by_shape(tenant.id, endpoint.method, endpoint.shape)
            if other is not None:
                raise ProblemError(
                    "conflict",
                    f"{other.method} {other.path} is the endpoint {other.id}. Delete that one first, or import it anew.",
                    faults=[Fault("/path", f"is {other.id}'s")],
                )
            if await tx.endpoints.count(tenant.id, at_most=self._ceilings.endpoints) >= self._ceilings.endpoints:
                raise refuse_over(self._ceilings.endpoints, "endpoints")
            await tx.endpoints.insert(tenant.id, endpoint)
            tx.changed("endpoint", tenant.id, endpoint.id)
            shown = Audited(self._secrets).endpoint(endpoint)
            await tx.audit.record(actor, action="endpoint.created", target=endpoint.id, after=shown)
        return endpoint

    async def get(self, actor: Actor, endpoint_id: str) -> Endpoint:
        """The endpoint."""
        async with self._database.read() as tx:
            return await _existing(tx, tenant_of(actor), endpoint_id)

    async def list(self, actor: Actor, page: PageRequest) -> Page[Endpoint]:
        """The tenant's endpoints, newest first."""
        async with self._database.read() as tx:
            return await tx.endpoints.page(tenant_of(actor), page)

    async def delete(self, actor: Actor, endpoint_id: str) -> None:
        """Takes an endpoint out of the catalogue."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            endpoint = await _existing(tx, tenant.id, endpoint_id)
            await tx.endpoints.delete(tenant.id, endpoint_id)
            tx.changed("endpoint", tenant.id, endpoint_id)
            shown = Audited(self._secrets).endpoint(endpoint)
            await tx.audit.record(actor, action="endpoint.deleted", target=endpoint_id, before=shown)

    async def import_document(
        self, actor: Actor, document: Mapping[str, Any], *, base_path: str | None = None
    ) -> Sequence[ImportedEndpoint]:
        """Takes over the operations of an OpenAPI document, in its order; a bad one spoils only itself.

        Importing again changes what the document now says otherwise. What it does not say of an endpoint stays, and so do
        endpoints that it does not have.
        """
        try:
            found = list(operations(document, base_path))
        except DocumentError as error:
            at = error.pointer.lstrip("/") or "The document"
            raise ProblemError(
                "validation_failed", f"{at} {error}.", faults=[Fault(error.pointer, str(error))]
            ) from error
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            known = {(known.method, known.shape): known for known in await tx.endpoints.all(tenant.id)}
            importing = _Import(tx, tenant.id, known, room=self._ceilings.endpoints - len(known))
            results = [importing.take(operation) for operation in found]
            await tx.endpoints.insert_many(tenant.id, importing.created)
            await tx.endpoints.replace_many(tenant.id, [after for _, after in importing.updated])
            audited = Audited(self._secrets)
            events = [Event("endpoint.created", each.id, after=audited.endpoint(each)) for each in importing.created]
            for before, after in importing.updated:
                was, now_is = differing(audited.endpoint(before), audited.endpoint(after))
                events.append(Event("endpoint.updated", after.id, was, now_is))
            for event in events:
                tx.changed("endpoint", tenant.id, event.target)
            await tx.audit.record_many(actor, events)
        return results


class _Import:
    """One import under way: what is known, what was made and what changed."""

    def __init__(self, tx: UnitOfWork, tenant_id: str, known: Mapping[tuple[str, str], Endpoint], *, room: int) -> None:
        self.created: list[Endpoint] = []
        self.updated: list[tuple[Endpoint, Endpoint]] = []
        self._tx = tx
        self._tenant_id = tenant_id
        self._known = known
        self._room = room
        self._pointers: dict[tuple[str, str], str] = {}

    def take(self, operation: Operation) -> ImportedEndpoint:
        """Takes one operation, and says what became of it."""
        faults = Faults()
        for fault in operation.faults:
            faults.add(*fault)
        wanted = _checked(self._read(operation, EndpointDraft(method=operation.method, path=operation.path)), faults)
        before = self._known.get((wanted.method, wanted.shape))
        if before is not None:
            wanted = _checked(self._read(operation, before), Faults())  # the same faults
        first = self._pointers.setdefault((wanted.method, wanted.shape), operation.pointer)
        if first != operation.pointer:
            faults.add("", f"is the same endpoint as {first}", "conflict")
        elif before is None and not faults.found and len(self.created) >= self._room:
            faults.add("", "the tenant has as many endpoints as it may have", "ceiling_reached")
        if faults.found:
            return _result(operation, "failed", faults=_within(operation, faults.found))
        if before is None:
            self.created.append(wanted)
            return _result(operation, "created", wanted)
        if is_unchanged(before, wanted):
            return _result(operation, "unchanged", before)
        self.updated.append((before, wanted))
        return _result(operation, "updated", wanted)

    def _read(self, operation: Operation, base: EndpointDraft | Endpoint) -> Endpoint:
        """What the operation says, and of ``base`` what it does not say."""
        draft = EndpointDraft(
            method=operation.method,
            path=operation.path,
            required_scopes=base.required_scopes if operation.required_scopes is UNSET else operation.required_scopes,
            cost=base.cost if operation.cost is UNSET else operation.cost,
            login=base.login if operation.login is UNSET else operation.login,
        )
        made = _made(self._tx, self._tenant_id, draft)
        if isinstance(base, EndpointDraft):
            return made
        return msgspec.structs.replace(made, id=base.id, created_at_us=base.created_at_us)


def _result(
    operation: Operation,
    outcome: Literal["created", "updated", "unchanged", "failed"],
    endpoint: Endpoint | None = None,
    faults: tuple[Fault, ...] = (),
) -> ImportedEndpoint:
    method, path = (operation.method, operation.path) if endpoint is None else (endpoint.method, endpoint.path)
    return ImportedEndpoint(
        pointer=operation.pointer, method=method, path=path, outcome=outcome, endpoint=endpoint, faults=faults
    )


def _within(operation: Operation, faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Faults of an endpoint's fields, by where the document says them."""
    places = {"required_scopes": "/security", "cost": f"/{COST}", "login": f"/{LOGIN}"}
    found = []
    for fault in faults:
        field = fault.pointer.split("/")[1:2]
        own = fault.pointer.startswith(operation.pointer)
        at = fault.pointer if own else operation.pointer + places.get("".join(field), "")
        found.append(Fault(at, fault.message))
    return tuple(found)


def _made(tx: UnitOfWork, tenant_id: str, draft: EndpointDraft) -> Endpoint:
    fields = {name: getattr(draft, name) for name in draft.__struct_fields__}
    return Endpoint(
        id=tx.new_id("end"),
        tenant_id=tenant_id,
        shape="",
        created_at_us=tx.now_us,
        updated_at_us=tx.now_us,
        **fields,
    )


async def _existing(tx: UnitOfWork, tenant_id: str, endpoint_id: str) -> Endpoint:
    endpoint = await tx.endpoints.get(tenant_id, endpoint_id)
    if endpoint is None:
        raise not_found("endpoint", endpoint_id)
    return endpoint


def _checked(endpoint: Endpoint, faults: Faults) -> Endpoint:
    """The endpoint in its one spelling; what is wrong with it goes to ``faults``."""
    if endpoint.method != ANY_METHOD and _METHOD.fullmatch(endpoint.method) is None:
        faults.add("/method", f"{endpoint.method[:32]!a} is not a method such as GET, nor * for any")
    path = endpoint.path if endpoint.path.endswith("*") else endpoint.path.rstrip("/") or "/"
    fault = path_index.fault(endpoint.path)
    if fault is not None:
        faults.add("/path", fault)
    scopes = endpoint.required_scopes
    if scopes is not None:
        scopes = faults.scopes("/required_scopes", scopes)
    _check_cost(endpoint.cost, faults)
    if not isinstance(cast(object, endpoint.login), bool):
        faults.add("/login", "must be true or false")
    return msgspec.structs.replace(
        endpoint, path=path, shape="" if fault else path_index.shape(path), required_scopes=scopes
    )


def _check_cost(cost: object, faults: Faults) -> None:
    units = cost if isinstance(cost, dict) else {"requests": cost}
    if not 1 <= len(units) <= MAX_UNITS_NAMED:
        faults.add("/cost", f"names {len(units)} units; give 1 to {MAX_UNITS_NAMED}")
    for unit, amount in units.items():
        at = "/cost" if units is not cost else f"/cost/{str(unit)[:64]}"
        if units is cost:
            faults.unit(at, unit)
        if type(amount) is not int or not 0 <= amount <= MAX_UNITS:
            faults.add(at, f"must be a whole number of 0 to {MAX_UNITS:,}, or such numbers by unit")
