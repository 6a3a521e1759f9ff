"""Keys and customers, made ready to be checked. What is expensive is made when it is first asked for.

A customer's limits are compiled once for all of its keys, and a key looks its customer up when it is asked: so a change of a
customer with a hundred thousand keys costs as much as that of one with none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from apishield.core.abuse_detector.addresses import Network, parse_network
from apishield.core.counter_keys import counter_key
from apishield.core.decided import Whose
from apishield.core.decision import KeyView
from apishield.core.key_manager import lifecycle
from apishield.core.model import Counter, Limit, ReadyCounters
from apishield.core.policies import Meter
from apishield.core.records import Customer, Environment, Key, KeyKind


class AskedLimits:
    """Counters with their meters, in order, and what every check needs to know of them."""

    __slots__ = ("counters", "meters", "takes_slots", "unit_costs")

    def __init__(self, counters: Sequence[Counter], meters: Sequence[Meter]) -> None:
        self.counters = ReadyCounters(counters)
        self.meters = tuple(meters)
        self.takes_slots = any(meter.takes_slots for meter in self.meters)
        self.unit_costs = [1 if meter.unit == "requests" else 0 for meter in self.meters]


class CustomerEntry:
    """A customer, whose limits all of its keys share, those of each environment apart."""

    __slots__ = ("_limits", "customer")

    def __init__(self, customer: Customer) -> None:
        self.customer = customer
        self._limits: dict[Environment, AskedLimits] = {}

    def limits(self, environment: Environment) -> AskedLimits:
        """What its keys of this environment are counted by together."""
        limits = self._limits.get(environment)
        if limits is None:
            customer = self.customer
            limits = self._limits[environment] = _asked(
                customer.tenant_id, environment, customer.rate_limits, {"customer": customer.id}
            )
        return limits


class KeyEntry:
    """A key: its counters, its networks, and what a decision tells about it. ``customers`` are its tenant's."""

    __slots__ = (
        "_customers", "_limits", "_of_customer", "_whose", "is_service_key", "is_test", "key", "networks", "usable_until_us",
    )  # fmt: skip

    def __init__(self, key: Key, customers: Mapping[str, CustomerEntry]) -> None:
        self.key = key
        self.is_service_key = key.kind is KeyKind.SERVICE
        self.is_test = key.environment is Environment.TEST
        self.usable_until_us = lifecycle.usable_until_us(key)
        self.networks: tuple[Network, ...] = tuple(
            network for network in map(parse_network, key.allowed_ips) if network is not None
        )
        self._customers = customers
        self._of_customer: CustomerEntry | None = None
        self._limits: AskedLimits | None = None
        self._whose: Whose | None = None

    @property
    def whose(self) -> Whose:
        """What a decision tells about the key."""
        whose = self._whose
        if whose is None:
            key = self.key
            view = KeyView(key.id, key.name, key.scopes, key.environment, key.customer_id, key.metadata)
            whose = self._whose = Whose.of(key.tenant_id, view)
        return whose

    @property
    def limits(self) -> AskedLimits:
        """What a check of this key is counted by: its own limits, then its customer's as they are now."""
        customer_id = self.key.customer_id
        customer = None if customer_id is None else self._customers.get(customer_id)
        limits = self._limits
        if limits is None or customer is not self._of_customer:
            limits = self._limits = self._compile(customer)
            self._of_customer = customer
        return limits

    def _compile(self, customer: CustomerEntry | None) -> AskedLimits:
        key = self.key
        own = _asked(key.tenant_id, key.environment, (*key.rate_limits, *key.quotas), {"key": key.id})
        if customer is None:
            return own
        shared = customer.limits(key.environment)
        return AskedLimits((*own.counters, *shared.counters), (*own.meters, *shared.meters))


def _asked(
    tenant_id: str, environment: Environment, limits: Iterable[Limit], subject: Mapping[str, str]
) -> AskedLimits:
    found = tuple(limits)
    counters = [Counter(counter_key(tenant_id, environment, limit, subject), limit) for limit in found]
    return AskedLimits(counters, [Meter(limit) for limit in found])
