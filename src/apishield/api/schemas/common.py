"""What all schemas share: strictness, times, names, pages, problems."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from apishield.api.times import from_rfc3339

EXAMPLE_REQUEST_ID = "req_06dnd0g2v5v7h3m8k1q0p2r4t6"

Item = TypeVar("Item")


class Input(BaseModel):
    """A body: unknown fields are refused, and nothing is taken for what it is not (no ``"1"`` for 1, no ``true`` for 1)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Changes(Input):
    """A PATCH body: what is absent stays as it is, ``null`` clears where the field says so."""

    def given(self) -> dict[str, Any]:
        """The fields that were sent, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def unchanged(**how: Any) -> Any:
    """The default of a field of ``Changes``: absent from the documentation, and never looked at."""
    return Field(None, json_schema_extra=_without_default, **how)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class Output(BaseModel):
    """An answer. Fields may be added to it; none is renamed or dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def example(value: dict[str, Any]) -> ConfigDict:
    """The configuration of a model that shows ``value`` as its example in the documentation."""
    return ConfigDict(json_schema_extra={"examples": [value]})


def _read_instant(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("must be a time such as 2026-11-23T14:00:00Z")
    return from_rfc3339(value)


def _check_time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("must be a time zone of the IANA database, such as Europe/Berlin")
    return name


INSTANT_SCHEMA = {"type": "string", "format": "date-time", "examples": ["2026-12-31T23:59:59Z"]}
Instant = Annotated[int, PlainValidator(_read_instant), WithJsonSchema(INSTANT_SCHEMA)]
"""A time in a body or a query, RFC 3339 with an offset; inside, microseconds since the Unix epoch."""

Timestamp = Annotated[str, WithJsonSchema(INSTANT_SCHEMA)]
"""A time in an answer: RFC 3339, UTC."""

FRESH = (
    "Whether all that this node's process has decided is in the figures; `false` also where it can't tell "
    "(no worker runs, or Kafka is in between): newer figures may follow."
)
"""What the field ``fresh`` says."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
PlanName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Metadata = Annotated[dict[str, Any], Field(description="Yours, kept as it is: a JSON object of at most 16 KiB.")]
TimeZone = Annotated[str, AfterValidator(_check_time_zone)]


class PageOf(Output, Generic[Item]):
    """A page of a list. ``next_cursor`` is for ``?cursor=`` of the next one, ``null`` on the last."""

    data: list[Item]
    has_more: bool
    next_cursor: str | None


class FaultOut(Output):
    """What is wrong with one field."""

    pointer: str = Field(description="JSON pointer (RFC 6901) into the body; `?name` for a query parameter.")
    message: str


class ProblemOut(Output):
    """An error (RFC 9457)."""

    type: str = Field(description="The page of the code: what happened, how to fix it.")
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None
    errors: list[FaultOut] | None = None
