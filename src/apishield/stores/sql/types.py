"""Column types that both databases share.

JSON is kept as text, written and read by msgspec: an audit entry must come back byte for byte, which PostgreSQL's ``jsonb``
does not promise, and a NUL in a string is escaped in text where ``jsonb`` refuses it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Dialect, Text
from sqlalchemy.types import TypeDecorator

Microseconds = BigInteger
"""A point in time, microseconds since the Unix epoch."""


class Document(TypeDecorator[Any]):
    """A value of ``type_`` (a struct, a tuple of structs, a map), kept as JSON."""

    impl = Text
    cache_ok = True

    def __init__(self, type_: Any) -> None:
        super().__init__()
        self.type_ = type_
        self._decode = msgspec.json.Decoder(type_).decode

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Writes the value."""
        return None if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Reads the value."""
        return None if value is None else self._decode(value)


class Choice(TypeDecorator[Any]):
    """One of the values of an enumeration, kept as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, type_: type[StrEnum]) -> None:
        super().__init__()
        self.type_ = type_

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Writes the value; one that the enumeration does not have is a ``ValueError``."""
        return None if value is None else self.type_(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Reads the value."""
        return None if value is None else self.type_(value)
