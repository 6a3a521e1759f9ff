"""Blocks and allows: manual ones of a tenant, and, by an operator who names no tenant, ones for all."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_network
from typing import Literal

import msgspec

from apishield.core.abuse_detector.addresses import Network, parse_address, parse_network
from apishield.core.ids import is_id
from apishield.core.model import SECOND_US
from apishield.core.records import Actor, Block, Role
from apishield.errors import ProblemError
from apishield.services.audited import Audited
from apishield.services.base import Service, not_found, refuse_over, tenant_of
from apishield.services.checks import Faults
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.blocks import Action, BlockSource
from apishield.stores.sql.unit_of_work import UnitOfWork

Kind = Literal["ip", "cidr", "key_id", "country", "asn"]

MAX_REASON_CHARACTERS = 500
MAX_DURATION_SECONDS = 10 * 366 * 86_400
MAX_AS_NUMBER = 2**32 - 1  # RFC 6793


class BlockDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A block (or an allow) to be made. ``duration_seconds`` of ``None`` is for ever."""

    kind: Kind
    value: str
    action: Action = "block"
    reason: str = ""
    duration_seconds: int | None = None


class BlockService(Service):
    """There is one block, and one allow, of a value: a new one takes the place of the old one."""

    async def create(self, actor: Actor, draft: BlockDraft) -> Block:
        """Blocks or allows a value, from now on. What a person said last counts, also where it is shorter."""
        if draft.action == "allow" and actor.tenant_id is None:
            raise ProblemError(
                "tenant_required",
                "An allow spares an address a tenant's own blocks: name the tenant in X-APIShield-Tenant.",
            )
        async with self._database.transaction() as tx:
            tenant_id = await _hold_owner(tx, actor)
            block = _checked(
                Block(
                    id=tx.new_id("blk" if draft.action == "block" else "alw"),
                    tenant_id=tenant_id,
                    action=draft.action,
                    kind=draft.kind,
                    value=draft.value,
                    reason=draft.reason,
                    created_at_us=tx.now_us,
                    expires_at_us=_end_us(tx.now_us, draft.duration_seconds),
                )
            )
            audited = Audited(self._secrets)
            old = await tx.blocks.of_value(tenant_id, block.action, block.kind, block.value)
            if old is not None:
                await tx.blocks.delete(tenant_id, old.id)
                tx.changed("block", tenant_id, old.id)
            elif await tx.blocks.count(tenant_id, at_most=self._ceilings.blocks) >= self._ceilings.blocks:
                raise refuse_over(self._ceilings.blocks, "blocks and allows")
            await tx.blocks.insert(tenant_id, block)
            tx.changed("block", tenant_id, block.id)
            await tx.audit.record(
                actor,
                action=f"{block.action}.created",
                target=block.id,
                before=None if old is None else {"id": old.id, **audited.block(old)},
                after=audited.block(block),
            )
        return block

    async def get(self, actor: Actor, block_id: str, action: Action) -> Block:
        """The block (or allow)."""
        async with self._database.read() as tx:
            return await _existing(tx, _owner_of(actor), block_id, action)

    async def list(
        self,
        actor: Actor,
        page: PageRequest,
        *,
        action: Action,
        active: bool | None = None,
        source: BlockSource | None = None,
        ip: str | None = None,
    ) -> Page[Block]:
        """Blocks (or allows), newest first. ``ip`` finds those that hold for an address, their networks included."""
        values = None if ip is None else _networks_of(ip)
        async with self._database.read() as tx:
            return await tx.blocks.page(
                _owner_of(actor), page, now_us=tx.now_us, action=action, active=active, source=source, values=values
            )

    async def remove(self, actor: Actor, block_id: str, action: Action) -> None:
        """Lifts a block (or an allow)."""
        async with self._database.transaction() as tx:
            tenant_id = await _hold_owner(tx, actor)
            block = await _existing(tx, tenant_id, block_id, action)
            await tx.blocks.delete(tenant_id, block_id)
            tx.changed("block", tenant_id, block_id)
            shown = Audited(self._secrets).block(block)
            await tx.audit.record(actor, action=f"{action}.removed", target=block_id, before=shown)


def _owner_of(actor: Actor) -> str | None:
    """Whose blocks the actor means; ``None``, those for all, is the operator's who names no tenant."""
    return actor.tenant_id if actor.role is Role.OPERATOR else tenant_of(actor)


async def _hold_owner(tx: UnitOfWork, actor: Actor) -> str | None:
    owner = _owner_of(actor)
    if owner is not None and await tx.tenants.lock(owner) is None:
        raise not_found("tenant", owner)
    return owner


async def _existing(tx: UnitOfWork, tenant_id: str | None, block_id: str, action: Action) -> Block:
    block = await tx.blocks.get(tenant_id, block_id)
    if block is None or block.action != action:
        raise not_found(action, block_id)
    return block


def _end_us(now_us: int, duration_seconds: int | None) -> int | None:
    if duration_seconds is None:
        return None
    if not 1 <= duration_seconds <= MAX_DURATION_SECONDS:
        faults = Faults()
        bounds = f"must be 1 to {MAX_DURATION_SECONDS} (ten years), or null for ever; is {duration_seconds}"
        faults.add("/duration_seconds", bounds)
        faults.raise_any()
    return now_us + duration_seconds * SECOND_US


def _checked(block: Block) -> Block:
    faults = Faults()
    faults.text("/reason", block.reason, longest=MAX_REASON_CHARACTERS, shortest=0)
    kind, value, fault = _normal(block.kind, block.value)
    if fault is not None:
        faults.add(f"/{block.kind}", fault)
    faults.raise_any()
    return msgspec.structs.replace(block, kind=kind, value=value)


def _normal(kind: Kind, value: str) -> tuple[Kind, str, str | None]:
    """The value in its one spelling, and what is wrong with it. A CIDR of one address is that address."""
    shown = f"{value[:64]!a}"
    match kind:
        case "ip":
            address = parse_address(value)
            return kind, address.text if address else value, None if address else f"{shown} is not an IP address"
        case "cidr":
            return _normal_cidr(value)
        case "key_id":
            return kind, value, None if is_id("key", value) else f"{shown} is not the id of a key"
        case "country":
            code = value.upper()
            sound = len(value) == 2 and value.isascii() and value.isalpha()
            return (
                kind,
                code,
                None if sound else f"{shown} is not a country's code of two letters (ISO 3166), such as DE",
            )
        case "asn":
            digits = value.upper().removeprefix("AS")
            sound = digits.isascii() and digits.isdigit() and len(digits) <= 10 and 1 <= int(digits) <= MAX_AS_NUMBER
            return kind, str(int(digits)) if sound else value, None if sound else f"{shown} is not an AS number"


def _normal_cidr(value: str) -> tuple[Kind, str, str | None]:
    network = parse_network(value)
    if network is None:
        fault = f"{value[:64]!a} is not a CIDR such as 10.0.0.0/8"
        with suppress(ValueError):
            fault += f"; did you mean {ip_network(value.strip(), strict=False)}?"
        return "cidr", value, fault
    if network.prefixlen == 0:
        return "cidr", value, "would hold for every address"
    if network.prefixlen == network.max_prefixlen:
        return "ip", str(network.network_address), None
    return "cidr", str(network), None


def _networks_of(ip: str) -> list[tuple[str, str]]:
    """All pairs of kind and value that hold for an address: itself, and each network it lies in."""
    address = parse_address(ip)
    if address is None:
        message = f"{ip[:64]!a} is not an IP address"
        raise ProblemError("validation_failed", f"ip: {message}.")
    network: Network = ip_network(address.text)
    networks = [str(network.supernet(new_prefix=length)) for length in range(1, network.max_prefixlen)]
    return [("ip", address.text), *(("cidr", text) for text in networks)]
