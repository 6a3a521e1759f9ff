"""The catalogue of a tenant's endpoints: which one a request is for, found without walking them.

Owns: the choice of one endpoint, the name it is counted by. Does not own: where endpoints come from (``services.endpoints``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apishield.core.path_index import PathIndex, Rank, rank
from apishield.core.records import Endpoint

ANY_METHOD = "*"
ANY_PATH = "*"
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "QUERY"})
"""Methods that are HTTP's own; a request may have another, but it gets no counter for each that somebody invents."""


class CatalogueEntry:
    """An endpoint, made ready to be found; ``subject`` is what limits count it by, such as ``GET /orders/{id}``."""

    __slots__ = ("_rank", "cost", "endpoint", "required_scopes", "subject")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.subject = f"{endpoint.method} {endpoint.path}"
        self.required_scopes = endpoint.required_scopes
        self.cost: int | Mapping[str, int] = endpoint.cost
        self._rank: Rank | None = None

    @property
    def rank(self) -> Rank:
        """How particular its path is; seldom asked for, since few paths match several endpoints."""
        if self._rank is None:
            self._rank = rank(self.endpoint.path)
        return self._rank


class Catalogue:
    """All endpoints of a tenant. A change costs as much as what changed, not as much as all that is there."""

    __slots__ = ("_by_method",)

    def __init__(self, entries: Iterable[CatalogueEntry] = ()) -> None:
        self._by_method: dict[str, PathIndex[CatalogueEntry]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: CatalogueEntry) -> None:
        """Takes an endpoint in."""
        self._by_method.setdefault(entry.endpoint.method, PathIndex()).add(entry.endpoint.path, entry)

    def remove(self, entry: CatalogueEntry) -> None:
        """Takes out an endpoint that was taken in."""
        self._by_method[entry.endpoint.method].remove(entry.endpoint.path, entry)

    def find(self, method: str, path: str) -> CatalogueEntry | None:
        """The endpoint of a request with this method and normal path: the most particular path, then the method itself.

        ``HEAD`` is answered by what answers ``GET``, so it is that endpoint unless it has one of its own: else it would be
        a way around a required scope.
        """
        best: CatalogueEntry | None = None
        for candidate in (method, "GET", ANY_METHOD) if method == "HEAD" else (method, ANY_METHOD):
            index = self._by_method.get(candidate)
            if index is not None:
                for entry in index.find(path):
                    if best is None or entry.rank < best.rank:
                        best = entry
        return best


def pattern_subject(method: str | None, pattern: str | None) -> str:
    """What limits count an endpoint by that no catalogue has: the policy's own pattern, never the raw path."""
    shown = "GET" if method == "HEAD" else method if method in METHODS else ANY_METHOD
    return f"{shown} {pattern or ANY_PATH}"
