"""The one place where counters get their keys.

A key reads ``as:{tenant}|environment|limit|algorithm|name=value|…``. The tenant is the hash tag, so that one verdict is one
slot of a Redis Cluster. No two subjects share a key and no subject can break a tag: every part is escaped like a URL's, and
one of more than 64 bytes is replaced by its digest. The algorithm is part of the key: changed numbers keep their state, a
changed algorithm starts a new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import quote, unquote

import msgspec

from apishield.core.model import Algorithm, Concurrency, FixedWindow, Limit, Quota, SlidingWindow, TokenBucket

MAX_PART_BYTES = 64
OVERFLOW = "overflow"  # no "=", hence no subject's part

_PLAIN_CHARACTERS = "-_.~:/@+,"
_is_plain = re.compile(rf"[A-Za-z0-9{re.escape(_PLAIN_CHARACTERS)}]{{1,{MAX_PART_BYTES}}}").fullmatch
_CODES: Mapping[type[Algorithm], str] = {
    FixedWindow: "fw",
    SlidingWindow: "sw",
    TokenBucket: "tb",
    Concurrency: "cc",
    Quota: "qu",
}


class LimitKeys(msgspec.Struct, frozen=True):
    """The keys of a limit's counters: each is ``prefix`` and the ``text_of`` a subject.

    ``overflow`` names the state that new anonymous subjects share while a store is full.
    """

    prefix: str
    overflow: str


def limit_keys(tenant_id: str, environment: str, limit: Limit) -> LimitKeys:
    """The keys of the counters of ``limit``, whose beginning a check of many limits, or one of many checks, makes once."""
    return _limit_keys(tenant_id, environment, limit.id, type(limit.algorithm))


def text_of(subject: Mapping[str, str]) -> str:
    """The part of a key that names ``subject`` (what is counted by → who, such as ``{"ip": "192.0.2.1"}``)."""
    if len(subject) == 1:
        ((name, value),) = subject.items()
        if _is_plain(value):
            return f"{_part(name)}={value}"
    return "|".join(f"{_part(name)}={_escape(value)}" for name, value in sorted(subject.items()))


def counter_key(tenant_id: str, environment: str, limit: Limit, subject: Mapping[str, str]) -> str:
    """Names the state of ``limit`` for ``subject``."""
    return limit_keys(tenant_id, environment, limit).prefix + text_of(subject)


def tenant_of(key: str) -> str:
    """Whose counter has this key."""
    return unquote(hash_tag(key).removeprefix("as:{"))


def subject_text(key: str) -> str:
    """The part of a counter's key that names whom it counts; of bounded length, whatever the subject was."""
    return key.split("|", 4)[4]


def subject_of(text: str) -> dict[str, str]:
    """What a ``text_of`` a subject names, for people to read; a part that was too long is still its digest, ``#…``."""
    parts = (part.partition("=") for part in text.split("|"))
    return {unquote(name): "" if value == "%" else unquote(value) for name, _, value in parts}


def record_key(tenant_id: str, check_id: str) -> str:
    """Names the record of an admitted check that will be settled; no counter's key, as it has fewer parts."""
    return f"as:{{{_escape(tenant_id)}}}|held|{_escape(check_id)}"


def once_key(tenant_id: str, check_id: str) -> str:
    """Names the verdict of a check that is decided once; likewise."""
    return f"as:{{{_escape(tenant_id)}}}|once|{_escape(check_id)}"


def hash_tag(key: str) -> str:
    """The part of a counter's key that decides on its slot; keys of one tag are decided together."""
    return key[: key.index("}")]


@lru_cache(maxsize=4096)
def _limit_keys(tenant_id: str, environment: str, limit_id: str, algorithm: type[Algorithm]) -> LimitKeys:
    prefix = f"as:{{{_escape(tenant_id)}}}|{_escape(environment)}|{_escape(limit_id)}|{_CODES[algorithm]}|"
    return LimitKeys(prefix, prefix + OVERFLOW)


@lru_cache(maxsize=1024)
def _part(name: str) -> str:
    return _escape(name)


def _escape(part: str) -> str:
    """``part`` in plain characters; never empty, never the same for two parts.

    A digest begins with "#" and an empty part is "%", neither of which escaping leaves or makes.
    """
    if _is_plain(part):
        return part
    raw = part.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_PART_BYTES:
        return "#" + blake2b(raw, digest_size=20).hexdigest()
    return _quoted(raw)


@lru_cache(maxsize=4096)  # of endpoints, which are few and have braces in them, and are counted by again and again
def _quoted(raw: bytes) -> str:
    return quote(raw, safe=_PLAIN_CHARACTERS) or "%"
