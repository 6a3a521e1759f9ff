"""What a process learned lately about its callers' keys: which were verified, and which are not known at all.

Owns: for how long that is believed, and how much is kept. Does not own: what is let through because of it (``service``).
No key is kept, only digests of key and address, made with a secret of the process: a key may be bound to addresses, so one
that was verified from one says nothing about another.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from hashlib import blake2b
from typing import Generic, TypeVar

from apishield.core.decision import Decision, KeyView

CAPACITY = 10_000
VERIFIED_SECONDS = 300.0
UNKNOWN_SECONDS = 1.0

_UNKNOWN = frozenset({"key_unknown", "key_malformed"})

V = TypeVar("V")


class SeenKeys:
    """The memory of one process, for all its threads. ``clock`` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float], capacity: int = CAPACITY) -> None:
        self._secret = secrets.token_bytes(32)
        self._verified: _Recent[KeyView] = _Recent(clock, VERIFIED_SECONDS, capacity)
        self._unknown: _Recent[Decision] = _Recent(clock, UNKNOWN_SECONDS, capacity)

    def caller(self, api_key: str, ip: str | None) -> bytes:
        """The name under which a caller is remembered."""
        text = f"{ip or ''} {api_key}"
        return blake2b(text.encode(errors="surrogatepass"), key=self._secret, digest_size=16).digest()

    def verified(self, caller: bytes) -> KeyView | None:
        """The caller's key, where the service let it through within the last five minutes, and has not refused it since."""
        return self._verified.recall(caller)

    def unknown(self, caller: bytes) -> Decision | None:
        """The refusal, where the service did not know the key within the last second."""
        return self._unknown.recall(caller)

    def note(self, caller: bytes, decision: Decision) -> None:
        """Learns from what the service decided."""
        if decision.allowed:
            if decision.key is not None:
                self._verified.remember(caller, decision.key)
        elif decision.status in {401, 403}:
            self._verified.forget(caller)
            if decision.code in _UNKNOWN:
                self._unknown.remember(caller, decision)


class _Recent(Generic[V]):
    """Values by name that are forgotten after a while, and the oldest when there are too many."""

    def __init__(self, clock: Callable[[], float], lifetime_seconds: float, capacity: int) -> None:
        self._clock, self._lifetime_seconds, self._capacity = clock, lifetime_seconds, capacity
        self._values: dict[bytes, tuple[float, V]] = {}  # oldest first
        self._lock = threading.Lock()

    def remember(self, name: bytes, value: V) -> None:
        with self._lock:
            self._values.pop(name, None)
            if len(self._values) >= self._capacity:
                del self._values[next(iter(self._values))]
            self._values[name] = self._clock() + self._lifetime_seconds, value

    def recall(self, name: bytes) -> V | None:
        found = self._values.get(name)
        return found[1] if found is not None and self._clock() < found[0] else None

    def forget(self, name: bytes) -> None:
        with self._lock:
            self._values.pop(name, None)
