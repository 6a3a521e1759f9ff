"""What a seed means: which faults come when, and who asks what."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What is done to a running pipeline. Whoever is killed is killed with -9, and started again."""

    NODE = "node"  # its ledger process lives on for as long as it takes to notice
    NODE_AND_LEDGER = "node and ledger process"
    LEDGER = "ledger process"  # its node starts another
    FROZEN_LEDGER = "node, while its ledger process is frozen"  # which thaws beside its successor
    RESTART = "restart"  # in order: SIGTERM
    WORKER = "worker"
    FROZEN_WORKER = "frozen worker"  # for so long that the group gives its partitions to another
    BROKER = "broker"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault, when ``after`` more answers have come; ``victim`` says which of several it hits."""

    after: int
    fault: Fault
    victim: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that a seed decides. ``last`` is how many answers come after the last blow."""

    seed: int
    blows: tuple[Blow, ...]
    last: int

    @classmethod
    def of(cls, seed: int, faults: Mapping[Fault, int], blows: int = 3) -> Schedule:
        """The schedule of ``seed``; ``faults`` may come, each as often as its weight says."""
        dice = random.Random(f"schedule {seed}")
        kinds = dice.choices(list(faults), list(faults.values()), k=blows)
        return cls(
            seed, tuple(Blow(dice.randint(5, 90), kind, dice.randrange(2)) for kind in kinds), dice.randint(5, 60)
        )

    def __str__(self) -> str:
        return ", ".join(f"{blow.fault} after {blow.after}" for blow in self.blows)
