"""What one counter says of one check.

In a file of its own, because it is compiled with the limiter: one is made for each limit of each check.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from apishield.core.compiled import untracked


@mypyc_attr(acyclic=True)
class Outcome:
    """What one counter says of one check. Nobody changes it.

    ``remaining`` and ``reset_us`` describe the counter after the verdict (so after the charge where the verdict admitted).
    ``remaining`` is below 0 where more is used than the limit allows: a settled cost, or a limit that was lowered. Whoever
    shows it shows 0 then, and the debt as use.
    ``retry_after_us`` is 0 where the counter admits; else how long until the same check would pass if nothing else came,
    or ``None`` where the cost can never fit.
    """

    admitted: bool
    remaining: int
    retry_after_us: int | None
    reset_us: int

    def __init__(self, admitted: bool, remaining: int, retry_after_us: int | None, reset_us: int) -> None:
        self.admitted, self.remaining = admitted, remaining
        self.retry_after_us, self.reset_us = retry_after_us, reset_us

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Outcome)
            and self.admitted == other.admitted
            and self.remaining == other.remaining
            and self.retry_after_us == other.retry_after_us
            and self.reset_us == other.reset_us
        )

    def __hash__(self) -> int:
        return hash((self.admitted, self.remaining, self.retry_after_us, self.reset_us))

    def __repr__(self) -> str:
        return f"Outcome({self.admitted}, {self.remaining}, {self.retry_after_us}, {self.reset_us})"


Outcome = untracked(Outcome)  # type: ignore[misc]
