"""Checks of what callers send, as far as the use cases must hold them whoever asks. All faults are collected, then raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from zoneinfo import available_timezones

import msgspec

from apishield.core.abuse_detector.addresses import parse_network
from apishield.core.key_manager import scopes as scope_rules
from apishield.core.model import Limit, Quota
from apishield.core.rate_limiter.parse import faults_of
from apishield.core.records import Metadata
from apishield.errors import Fault, ProblemError

MAX_NAME_CHARACTERS = 200
MAX_METADATA_BYTES = 16 * 1024
MAX_LIMITS = 20
MAX_SCOPES = 100
MAX_NETWORKS = 256
LATEST_US = 253_402_300_799 * 1_000_000
"""The end of the year 9999, the last that RFC 3339 can write."""

_MAX_DEPTH = 32
_UNIT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class Faults:
    """Collects what is wrong with a request, by JSON pointer.

    ``sent`` gives the pointers of parts that the caller sent elsewhere than where the use case looks for them.
    """

    def __init__(self, sent: Mapping[str, str] | None = None) -> None:
        self._sent = sent or {}
        self._found: list[Fault] = []
        self._codes: set[str] = set()

    def add(self, pointer: str, message: str, code: str = "validation_failed") -> None:
        """Notes a fault. Where all have the same ``code``, that is the code of the problem."""
        for ours, theirs in self._sent.items():
            if pointer == ours or pointer.startswith(f"{ours}/"):
                pointer = theirs + pointer[len(ours) :]
                break
        self._found.append(Fault(pointer, message))
        self._codes.add(code)

    @property
    def found(self) -> tuple[Fault, ...]:
        """All faults so far."""
        return tuple(self._found)

    def raise_any(self) -> None:
        """Raises 422 with all faults, where there are any."""
        if self._found:
            code = self._codes.pop() if len(self._codes) == 1 else "validation_failed"
            detail = "; ".join(
                f"{fault.pointer.lstrip('/?').replace('/', '.')}: {fault.message}" for fault in self._found
            )
            raise ProblemError(code, f"{detail[:1000]}.", faults=self._found)

    def text(self, pointer: str, value: str, *, longest: int = MAX_NAME_CHARACTERS, shortest: int = 1) -> None:
        """One line of printable text, which leaves out NUL and lone surrogates: PostgreSQL can store neither."""
        if not shortest <= len(value) <= longest:
            self.add(pointer, f"must have {shortest} to {longest} characters, has {len(value)}")
        elif not value.isprintable() or value != value.strip():
            self.add(pointer, "must be printable, on one line, without blanks around it")

    def sought(self, **filters: str | None) -> None:
        """Texts of a query that are looked for as they are, by the names of their parameters."""
        for name, value in filters.items():
            if value is not None and not (len(value) <= MAX_NAME_CHARACTERS and value.isprintable()):
                self.add(f"?{name}", f"must be printable and have at most {MAX_NAME_CHARACTERS} characters")

    def instant(self, pointer: str, value_us: int | None, *, now_us: int) -> None:
        """A time to come, or none."""
        if value_us is not None and not now_us < value_us <= LATEST_US:
            self.add(pointer, "must be in the future" if value_us <= now_us else "must be before the year 10000")

    def metadata(self, pointer: str, value: Metadata) -> None:
        """JSON that comes back as it was given, of at most 16 KiB."""
        try:
            if _depth(value) > _MAX_DEPTH:
                self.add(pointer, f"is nested deeper than {_MAX_DEPTH}")
                return
            encoded = msgspec.json.encode(value)
            same = msgspec.json.decode(encoded) == value
        except (msgspec.MsgspecError, TypeError, ValueError):  # lone surrogates, keys that are no text, other types
            same, encoded = False, b""
        if not same:
            self.add(pointer, "must be JSON that can be kept as it is: no NaN, no infinity, no lone surrogates")
        elif len(encoded) > MAX_METADATA_BYTES:
            self.add(pointer, f"has {len(encoded)} bytes as JSON; at most {MAX_METADATA_BYTES} are kept")

    def time_zone(self, pointer: str, value: str) -> None:
        """A name of the IANA database."""
        if value not in available_timezones():
            self.add(pointer, "must be a time zone of the IANA database, such as Europe/Berlin")

    def scopes(self, pointer: str, value: Iterable[str]) -> tuple[str, ...]:
        """The scopes without repetition."""
        distinct = tuple(dict.fromkeys(value))
        if len(distinct) > MAX_SCOPES:
            self.add(pointer, f"has {len(distinct)} scopes; at most {MAX_SCOPES} are kept")
        for place, scope in enumerate(distinct):
            if fault := scope_rules.fault(scope):
                self.add(f"{pointer}/{place}", fault)
        return distinct

    def networks(self, pointer: str, value: Iterable[str]) -> tuple[str, ...]:
        """Addresses and CIDRs in one spelling, without repetition; an address is written without its length."""
        spelt: dict[str, None] = {}
        for place, text in enumerate(value):
            network = parse_network(text)
            if network is None:
                self.add(f"{pointer}/{place}", f"{text[:64]!a} is no address and no CIDR without host bits")
            else:
                whole = network.prefixlen == network.max_prefixlen
                spelt[str(network.network_address) if whole else str(network)] = None
        if len(spelt) > MAX_NETWORKS:
            self.add(pointer, f"has {len(spelt)} entries; at most {MAX_NETWORKS} are kept")
        return tuple(spelt)

    def limits(
        self, pointer: str, value: Iterable[Limit], *, previous: Iterable[Limit] = (), new_id: Callable[[str], str]
    ) -> tuple[Limit, ...]:
        """Rate limits (or quotas) with ids: one whose name a ``previous`` one had keeps its id, and so its state."""
        ids = {limit.name: limit.id for limit in previous}
        kept: dict[str, Limit] = {}
        for place, limit in enumerate(value):
            at = f"{pointer}/{place}"
            if limit.name in kept:
                self.add(f"{at}/name", f"{limit.name[:64]!a} names two limits; state is kept by name", "invalid_limit")
            self.limit(at, limit)
            kept[limit.name] = msgspec.structs.replace(limit, id=ids.get(limit.name) or new_id("lim"))
        if len(kept) > MAX_LIMITS:
            self.add(pointer, f"has {len(kept)} limits; at most {MAX_LIMITS} are kept", "invalid_limit")
        return tuple(kept.values())

    def limit(self, pointer: str, limit: Limit) -> None:
        """One limit's name, unit and numbers."""
        self.text(f"{pointer}/name", limit.name, longest=64)
        self.unit(f"{pointer}/unit", limit.unit, "invalid_limit")
        for message in faults_of(limit.algorithm):
            self.add(pointer, message, "invalid_limit")

    def unit(self, pointer: str, value: str, code: str = "validation_failed") -> None:
        """The name of what a limit counts."""
        if not (_UNIT_CHARACTERS.issuperset(value) and value[:1].isalpha() and len(value) <= 32):
            self.add(pointer, f"{value[:64]!a} is not a word of a-z, 0-9 and _", code)


def is_quota(limit: Limit) -> bool:
    """Whether the limit follows the calendar."""
    return isinstance(limit.algorithm, Quota)


def _depth(value: Any, above: int = 0) -> int:
    if above > _MAX_DEPTH or not isinstance(value, (dict, list)):
        return above
    inner = value.values() if isinstance(value, dict) else value
    return max((_depth(item, above + 1) for item in inner), default=above + 1)
