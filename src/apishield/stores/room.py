"""Who may take how much of a bounded store, so that no tenant, and no crowd of strangers, leaves the others without counters.

Owns: the counts by tenant, and the shares. Does not own: what happens to a counter that finds no room.
"""

from __future__ import annotations

from apishield.core.counter_keys import hash_tag

ANONYMOUS_SHARE = 2  # of the room, a half: for strangers, whose addresses cost them nothing
ANONYMOUS_TENANT_SHARE = 4  # a quarter: for the strangers of one tenant
RESERVED_SHARE = 8  # an eighth: kept for tenants that hold little
LITTLE_SHARE = 64


class Room:
    """Room for ``size`` counters.

    Anonymous subjects may take half of it, and those of one tenant a quarter. The last eighth is for tenants that hold no
    more than a 64th: attributes and addresses beside a key can be invented as well. ``shared`` is whether there are several
    tenants; where there is only one, all of it may take all.
    """

    def __init__(self, size: int, *, shared: bool) -> None:
        self.size = size
        self._shared = shared
        self._held = 0
        self._anonymous = 0
        self._held_by: dict[str, int] = {}
        self._anonymous_of: dict[str, int] = {}

    def fits(self, key: str, wanted: int, *, anonymous: bool) -> bool:
        """Whether ``wanted`` more counters like that of ``key`` may be taken."""
        if self._held + wanted > self.size:
            return False
        if not self._shared:
            return True
        tenant = hash_tag(key)
        if (
            self._held + wanted > self.size - self.size // RESERVED_SHARE
            and self._held_by.get(tenant, 0) + wanted > self.size // LITTLE_SHARE
        ):
            return False
        return not anonymous or (
            self._anonymous + wanted <= self.size // ANONYMOUS_SHARE
            and self._anonymous_of.get(tenant, 0) + wanted <= self.size // ANONYMOUS_TENANT_SHARE
        )

    def take(self, key: str, *, anonymous: bool) -> None:
        """Counts a new counter."""
        self._count(key, 1, anonymous=anonymous)

    def leave(self, key: str, *, anonymous: bool) -> None:
        """Counts one less."""
        self._count(key, -1, anonymous=anonymous)

    def clear(self) -> None:
        """Everything was given up."""
        self._held = self._anonymous = 0
        self._held_by.clear()
        self._anonymous_of.clear()

    def _count(self, key: str, change: int, *, anonymous: bool) -> None:
        tenant = hash_tag(key)
        self._held += change
        _add(self._held_by, tenant, change)
        if anonymous:
            self._anonymous += change
            _add(self._anonymous_of, tenant, change)


def _add(counts: dict[str, int], tenant: str, change: int) -> None:
    count = counts.get(tenant, 0) + change
    if count:
        counts[tenant] = count
    else:
        del counts[tenant]
