"""The blocklist and the allowlist. The operator, naming no tenant, makes blocks that hold for all."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import AllowId, BlockId, PageParameters, Search, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.blocks import BlockCreate, BlockOut
from apishield.api.schemas.common import PageOf

router = control_router("Blocks")

Active = Annotated[Literal["true", "false"] | None, Query(description="Whether it still holds.")]
Source = Annotated[Literal["manual", "auto"] | None, Query()]
Ip = Annotated[Search | None, Query(description="An address; networks that hold it are found too.")]


@router.post("/v1/blocklist", status_code=201, responses=errors("ceiling_reached"))
@permit(Permission.BLOCKS_WRITE)
async def create_block(body: BlockCreate, actor: CurrentActor, runtime: CurrentRuntime) -> BlockOut:
    """Refuses an address, network or key from now on. A new block of the same value takes the place of the old one."""
    return BlockOut.of(await runtime.blocks.create(actor, body.draft("block")), runtime.clock())


@router.get("/v1/blocklist", responses=errors("invalid_cursor"))
@permit(Permission.BLOCKS_READ)
async def list_blocks(
    actor: CurrentActor,
    runtime: CurrentRuntime,
    page: PageParameters,
    active: Active = None,
    source: Source = None,
    ip: Ip = None,
) -> PageOf[BlockOut]:
    """The blocks, newest first."""
    held = None if active is None else active == "true"
    now_us = runtime.clock()
    found = await runtime.blocks.list(actor, page, action="block", active=held, source=source, ip=ip)
    return page_of(found, lambda block: BlockOut.of(block, now_us))


@router.get("/v1/blocklist/{block_id}")
@permit(Permission.BLOCKS_READ)
async def get_block(block_id: BlockId, actor: CurrentActor, runtime: CurrentRuntime) -> BlockOut:
    """A block."""
    return BlockOut.of(await runtime.blocks.get(actor, block_id, "block"), runtime.clock())


@router.delete("/v1/blocklist/{block_id}", status_code=204)
@permit(Permission.BLOCKS_WRITE)
async def delete_block(block_id: BlockId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Lifts a block."""
    await runtime.blocks.remove(actor, block_id, "block")
    return Response(status_code=204)


@router.post("/v1/allowlist", status_code=201, responses=errors("ceiling_reached"))
@permit(Permission.BLOCKS_WRITE)
async def create_allow(body: BlockCreate, actor: CurrentActor, runtime: CurrentRuntime) -> BlockOut:
    """Spares an address, network or key the blocklist and the abuse rules; nothing lifts a block of the operator."""
    return BlockOut.of(await runtime.blocks.create(actor, body.draft("allow")), runtime.clock())


@router.get("/v1/allowlist", responses=errors("invalid_cursor"))
@permit(Permission.BLOCKS_READ)
async def list_allows(
    actor: CurrentActor,
    runtime: CurrentRuntime,
    page: PageParameters,
    active: Active = None,
    source: Source = None,
    ip: Ip = None,
) -> PageOf[BlockOut]:
    """The allows, newest first."""
    held = None if active is None else active == "true"
    now_us = runtime.clock()
    found = await runtime.blocks.list(actor, page, action="allow", active=held, source=source, ip=ip)
    return page_of(found, lambda block: BlockOut.of(block, now_us))


@router.get("/v1/allowlist/{allow_id}")
@permit(Permission.BLOCKS_READ)
async def get_allow(allow_id: AllowId, actor: CurrentActor, runtime: CurrentRuntime) -> BlockOut:
    """An allow."""
    return BlockOut.of(await runtime.blocks.get(actor, allow_id, "allow"), runtime.clock())


@router.delete("/v1/allowlist/{allow_id}", status_code=204)
@permit(Permission.BLOCKS_WRITE)
async def delete_allow(allow_id: AllowId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Removes an allow."""
    await runtime.blocks.remove(actor, allow_id, "allow")
    return Response(status_code=204)
