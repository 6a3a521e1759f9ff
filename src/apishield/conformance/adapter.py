"""What stands between the schedules and a limiter written in Python: one method, and what it can do."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from apishield.core.rate_limiter.parse import RateAlgorithm
from apishield.errors import ConfigurationError

Told = tuple[bool, float | None]
"""Whether a check was admitted and, of a refused one, the seconds until it would be (``None``: the limiter does not say)."""


class Adapter(Protocol):
    """A limiter to be scored. Inherit from it for the defaults, or have the same attributes."""

    simulated: bool = False
    """Whether ``hit`` goes by the ``now_us`` it is given; then a run takes no time at all, and can be long."""

    costs: bool = True
    """Whether a check may cost other than 1."""

    resolution_seconds: float = 0.0
    """To what the seconds that a refusal tells are rounded up."""

    def hit(self, key: str, cost: int, now_us: int) -> Told | Awaitable[Told]:
        """Charges ``key`` with ``cost`` units, or refuses. ``now_us`` (since the Unix epoch) never goes backwards."""
        ...

    def reset(self) -> None:
        """Lets go of what the limiter holds, at the end."""
        return


MakeAdapter = Callable[[Sequence[RateAlgorithm]], Adapter]
"""Makes an adapter whose limiter holds all of the given limits. Raises ``ValueError`` where it can't."""


def load_adapter(reference: str) -> MakeAdapter:
    """Finds ``module:object``, also in the working directory. Raises ``ConfigurationError`` where there is none."""
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise ConfigurationError(f"adapter is {reference!r}; give module:object, such as my_limiter:make_adapter.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        make: object = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"adapter {reference!r} can't be loaded: {error}.") from error
    if not callable(make):
        raise ConfigurationError(
            f"adapter {reference!r} is not callable; it must make an adapter from a list of limits."
        )
    return make
