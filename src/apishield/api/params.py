"""Parameters that many routes share: ids, pages, times in queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query
from pydantic import AfterValidator

from apishield.api.schemas.common import Instant, PageOf
from apishield.core.ids import is_id
from apishield.errors import ProblemError
from apishield.stores.sql.pagination import MAX_LIMIT, Page, PageRequest

Item = TypeVar("Item")
Shown = TypeVar("Shown")


def _id(prefix: str, what: str) -> Any:
    """A path parameter that could be an id; anything else is 404 at once, as an id that never was."""

    def check(text: str) -> str:
        if not is_id(prefix, text):
            raise ProblemError("not_found", f"There is no {what} {text[:64]!a}.")
        return text

    return Annotated[str, Path(examples=[f"{prefix}_06dnd0g2v5v7h3m8k1q0p2r4t6"]), AfterValidator(check)]


TenantId = _id("ten", "tenant")
TokenId = _id("tok", "token")
KeyId = _id("key", "key")
CustomerId = _id("cus", "customer")
PolicyId = _id("pol", "policy")
ReplayId = _id("rpl", "replay")
EndpointId = _id("end", "endpoint")
BlockId = _id("blk", "block")
AllowId = _id("alw", "allow")


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


Search = Annotated[str, Query(min_length=1, max_length=200), AfterValidator(_plain)]
"""A text to look for."""

InstantQuery = Annotated[Instant, Query()]
"""A time, RFC 3339 with an offset (a ``+`` in it is written ``%2B``)."""


def _page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items.")] = 20,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
) -> PageRequest:
    return PageRequest(limit=limit, cursor=cursor)


PageParameters = Annotated[PageRequest, Depends(_page)]


def page_of(page: Page[Item], show: Callable[[Item], Shown]) -> PageOf[Shown]:
    """``page`` as a list answers it, each item as ``show`` shows it."""
    data: Sequence[Shown] = [show(item) for item in page.items]
    return PageOf(data=list(data), has_more=page.next_cursor is not None, next_cursor=page.next_cursor)
