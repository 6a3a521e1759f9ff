"""The checks of one turn of the event loop: what several have in common is found out for the first of them.

Within a turn nothing is changed but counters, and they are not asked here. A turn must be short, because its time stands
still: a key that expires within it is refused from the next one on.
"""

from __future__ import annotations

from apishield.core.decision import CheckRequest
from apishield.services.asked import Asked
from apishield.services.screening import NO_KEY, UNKNOWN, Identified, Screening
from apishield.services.snapshot import TenantView


class Turn:
    """Screens checks of one tenant as ``Screening`` does. For one turn only, and bounded by what is asked in it.

    ``limits`` is how many limits have their say in all checks so far: with ``most_limits`` it is full. ``knows_all`` is whether
    a key that is unknown here is so everywhere.
    """

    __slots__ = ("_identified", "_screened", "_screening", "knows_all", "limits", "most_limits", "now_us", "view")

    def __init__(
        self, screening: Screening, view: TenantView, now_us: int, *, most_limits: int, knows_all: bool
    ) -> None:
        self.view = view
        self.limits = 0
        self.most_limits = most_limits
        self.now_us = now_us
        self.knows_all = knows_all
        self._screening = screening
        self._identified: dict[str, Identified | None] = {}
        self._screened: dict[tuple[str | bool | None, ...], Asked] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more checks should be asked in it."""
        return self.limits >= self.most_limits

    def screen(self, request: CheckRequest) -> Asked | None:
        """The check with why it is refused, or with its limits; ``None`` where only the database could tell whose key it is."""
        asked: Asked | None
        if request.scopes is None and request.attributes is None:
            # All that screening looks at. What is asked of the limits is each check's own.
            question = (request.api_key, request.method, request.path, request.ip, request.country, request.require_key)
            known = self._screened.get(question)
            if known is None:
                known = self._screen(request)
                if known is None:
                    return None
                self._screened[question] = known
            # A copy, because whoever decides it writes down in it what becomes of it. copy() takes twice as long.
            asked = known.__copy__()  # type: ignore[attr-defined]
            asked.request = request
        else:
            asked = self._screen(request)
            if asked is None:
                return None
        self.limits += len(asked.counters)
        return asked

    def _screen(self, request: CheckRequest) -> Asked | None:
        found = self._identify(request.api_key) if request.api_key else NO_KEY
        if found is None and self.knows_all:
            found = UNKNOWN
        return None if found is None else self._screening.screen_known(self.view, request, found, self.now_us)

    def _identify(self, secret: str) -> Identified | None:
        try:
            return self._identified[secret]
        except KeyError:
            found = self._identified[secret] = self._screening.identify(self.view, secret, self.now_us)
            return found
