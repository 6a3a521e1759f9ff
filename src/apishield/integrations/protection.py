"""What every integration is made of: its options, the guard that decides, and the rules by which callers are known.

Owns: the meaning of the options. Does not own: how a framework hands over requests (``asgi``, ``wsgi``, ``django``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, Unpack

from apishield.client.models import Cost, Report
from apishield.core.decision import Decision
from apishield.errors import APIShieldError, ConfigurationError
from apishield.integrations.availability import OnError
from apishield.integrations.callers import CallerRules, Incoming
from apishield.integrations.settling import ReservedDecision, check_cost, settleable

LONGEST_TIMEOUT_SECONDS = 1.0


class ProtectionOptions(TypedDict, total=False):
    """The options of ``RateLimitMiddleware``, the same for every framework.

    A ``request`` is what the framework calls one: the ASGI scope, the WSGI environ, Django's ``HttpRequest``.
    """

    # Deciding by the service:
    apishield_url: str
    """Where APIShield runs, as in ``http://localhost:8000``."""
    api_key: str
    """A service key."""
    require_key: bool
    """Whether callers without a key are refused (401); else the tenant's policies for them apply. Default: false."""
    timeout_seconds: float
    """How long a request waits for a decision at most: up to 1. Default: 0.5."""
    report: bool
    """Whether status and latency are reported to the service, behind the responses. Default: true."""
    reserve: bool | Callable[[Any], bool]
    """Whether the cost is an estimate, which the app settles by ``settle`` of the decision. Default: false."""
    scopes: Sequence[str] | Callable[[Any], Sequence[str] | None]
    """Scopes that a key must hold, instead of those that the service derives from method and endpoint."""

    # Deciding here, without a service:
    limit: str | Sequence[str]
    """``"100/minute"``, ``"10/second burst 20"``, ``"1000/hour fixed"``; or several, which admit together or not at all."""
    per: Literal["ip", "key"] | Callable[[Any], str | None]
    """What is counted by. ``"key"`` takes whatever key a caller presents, and the address where there is none; a function
    returns a name, or ``None`` for requests that are not counted. Default: ip."""
    store: str
    """``memory://`` (each process counts for itself) or the URL of a Redis. Default: memory."""

    namespace: str
    """Apps with the same namespace share the counters of a Redis. Default: ``apishield``."""

    # Both:
    on_error: OnError
    """What happens to requests while nobody can be asked: ``deny`` refuses all with 503. ``allow`` lets them through
    unchecked; by a service, only those that need no verification or had one in the last minutes. Default: allow."""
    cost: Cost | Callable[[Any], Cost | None]
    """What a request is charged. Default: what the service says its endpoint costs, else 1."""
    key_header: str
    """The header that holds the caller's key. Default: ``X-API-Key``."""
    bearer_prefixes: Sequence[str]
    """How a bearer token begins that is taken for a key. Default: ``("sk_",)``; ``("",)`` takes any, ``()`` none."""
    trusted_proxies: Sequence[str]
    """Addresses and networks whose word about the client's address is taken; ``"unix"`` for a Unix socket. Default: none."""
    forwarded_header: str
    """Where those proxies write it. Default: ``X-Forwarded-For``."""
    exempt: Sequence[str]
    """Paths that are not checked: exact, or a beginning with ``*`` behind (``"/healthz"``, ``"/static/*"``)."""


class Guard(Protocol):
    """Decides about requests."""

    def check(
        self, incoming: Incoming, request: object, cost: Cost | None, *, reserve: bool = False
    ) -> Awaitable[Decision]:
        """The decision about ``request``, the framework's, of which all is read before this returns.

        What is awaited never fails because nobody can be asked.
        """
        ...

    def report(self, report: Report) -> None:
        """Takes note of what became of an allowed request."""
        ...

    async def close(self) -> None:
        """Sends what is left and lets go of the running loop."""
        ...


class RefusedError(APIShieldError):
    """Raised by a handler or dependency that refuses a request after the fact; the middleware answers with the decision."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.message)
        self.decision = decision


class Protection:
    """The options, checked: one for each app."""

    def __init__(self, **options: Unpack[ProtectionOptions]) -> None:
        unknown = options.keys() - ProtectionOptions.__annotations__.keys()
        if unknown:
            known = ", ".join(sorted(ProtectionOptions.__annotations__))
            raise TypeError(f"{', '.join(sorted(unknown))} is not an option; there are {known}.")
        self.reports = options.get("report", True)
        self._cost = options.get("cost")
        self._reserve = options.get("reserve", False)
        if self._reserve and not self.reports:
            raise ConfigurationError("reserve needs report: what a request cost in the end goes out with its report.")
        if self._cost is not None and not callable(self._cost):
            check_cost(self._cost)
        self._exempt = _exemptions(options.get("exempt", ()))
        self.callers = CallerRules.of(
            key_header=options.get("key_header", "X-API-Key"),
            bearer_prefixes=options.get("bearer_prefixes", ("sk_",)),
            trusted_proxies=options.get("trusted_proxies", ()),
            forwarded_header=options.get("forwarded_header", "X-Forwarded-For"),
        )
        self.guard = _guard(options)

    def exempts(self, path: str) -> bool:
        """Whether requests for ``path``, as the app routes it, are not checked."""
        exact, beginnings = self._exempt
        if not exact and not beginnings:
            return False
        if "//" in path or "/." in path or "\\" in path:
            return False  # else a detour through an exempt directory would be a way around the limits
        return path in exact or path.startswith(beginnings)

    def decide(self, incoming: Incoming, request: object) -> Awaitable[Decision]:
        """The decision about a request. The options' functions are called before this returns, in the caller's thread."""
        cost = self._cost
        if callable(cost):
            cost = cost(request)
            if cost is not None:
                check_cost(cost)
        if self._reserve is False:
            return self.guard.check(incoming, request, cost)
        reserve = self._reserve(request) if callable(self._reserve) else self._reserve
        return settleable(self.guard.check(incoming, request, cost, reserve=reserve), is_reserved=reserve)

    def report(
        self,
        decision: Decision,
        status: int,
        latency_seconds: float,
        size_bytes: int,
        tell: Callable[[Report], None] | None = None,
    ) -> None:
        """Takes note of the response to an allowed request; ``tell`` takes the report instead of the guard."""
        if self.reports and decision.decision_id:
            tell = tell or self.guard.report
            latency_ms = round(latency_seconds * 1000, 3)
            report = Report(decision_id=decision.decision_id, status=status, latency_ms=latency_ms, bytes=size_bytes)
            if isinstance(decision, ReservedDecision):
                report = decision.settlement.go_with(report, tell)
            tell(report)


_FOR_SERVICE = frozenset({"apishield_url", "api_key", "require_key", "timeout_seconds", "report", "reserve", "scopes"})
_FOR_LIMIT = frozenset({"limit", "per", "store", "namespace"})


def _guard(options: ProtectionOptions) -> Guard:
    given = options.keys()
    if bool(given & {"apishield_url", "api_key"}) == ("limit" in given):
        raise ConfigurationError(
            "RateLimitMiddleware takes either apishield_url and api_key (decisions by the service), or limit (decisions "
            f"without one), {'not both' if 'limit' in given else 'and got neither'}."
        )
    misplaced = given & (_FOR_SERVICE if "limit" in given else _FOR_LIMIT)
    if misplaced:
        other = "limit" if "limit" in given else "apishield_url"
        raise ConfigurationError(f"{', '.join(sorted(misplaced))} can't be combined with {other}.")
    on_error = options.get("on_error", "allow")
    if on_error not in {"allow", "deny"}:
        raise ConfigurationError(f"on_error is {on_error!r}; give 'allow' or 'deny'.")
    return _service_guard(options, on_error) if "limit" not in given else _local_guard(options, on_error)


def _service_guard(options: ProtectionOptions, on_error: OnError) -> Guard:
    from apishield.integrations.service import ServiceGuard  # noqa: PLC0415  httpx2 is loaded only where it is used

    url, api_key = options.get("apishield_url"), options.get("api_key")
    if not url or not api_key:
        missing = "api_key" if url else "apishield_url"
        raise ConfigurationError(f"{missing} is missing: RateLimitMiddleware needs apishield_url and api_key.")
    timeout_seconds = options.get("timeout_seconds", 0.5)
    if not 0 < timeout_seconds <= LONGEST_TIMEOUT_SECONDS:
        raise ConfigurationError(f"timeout_seconds is {timeout_seconds!r}; give more than 0 and at most 1 second.")
    return ServiceGuard(
        url,
        api_key,
        timeout_seconds=timeout_seconds,
        on_error=on_error,
        require_key=options.get("require_key", False),
        scopes=options.get("scopes"),
    )


def _local_guard(options: ProtectionOptions, on_error: OnError) -> Guard:
    from apishield.integrations.local import LocalGuard  # noqa: PLC0415  the algorithms, likewise

    cost = options.get("cost")
    if isinstance(cost, Mapping):
        raise ConfigurationError(f"cost is {cost!r}; a limit without a service counts requests, so give an integer.")
    limit = options["limit"]
    return LocalGuard(
        [limit] if isinstance(limit, str) else list(limit),
        per=options.get("per", "ip"),
        store_url=options.get("store", "memory://"),
        namespace=options.get("namespace", "apishield"),
        on_error=on_error,
    )


def _exemptions(patterns: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    if isinstance(patterns, str):
        raise ConfigurationError(f"exempt is a list of paths; write [{patterns!r}].")
    patterns = list(patterns)
    for pattern in patterns:
        if not pattern.startswith("/") or "*" in pattern[:-1]:
            raise ConfigurationError(f"exempt has {pattern!r}; give paths such as '/healthz' or '/static/*'.")
    exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
    return exact, tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
