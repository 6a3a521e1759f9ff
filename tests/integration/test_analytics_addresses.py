"""Addresses by hours, and by the decisions of any part of the traffic, are what counting gives. On both databases."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

from apishield.analytics.steps import Step
from apishield.core.decision_ids import DecisionIds
from apishield.services.analytics.addresses import AddressService
from apishield.services.analytics.decisions import DecisionService
from apishield.stores.sql.analytics.plan import Selection
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.archive import DecisionArchive
from tests.support.analytics_oracle import Traffic, fits, questions, traffic  # noqa: F401  a fixture
from tests.support.clock import ManualClock


async def test_addresses_are_what_counting_gives_of_hours_and_of_decisions(
    traffic: Traffic,  # noqa: F811
    database: Database,
    clock: ManualClock,
) -> None:
    archive = DecisionArchive(database, replay_days=150)
    service = AddressService(database, DecisionService(archive, DecisionIds([b"k" * 32], 1), clock))
    held = dict.fromkeys(Step, 0)
    for rng, asked in questions(traffic):
        question = asked if rng.random() < 0.7 else msgspec.structs.replace(asked, selection=Selection())
        found = await service.busiest(question, limit=1)
        from_us, to_us = found.covered.period
        expected: dict[str, Counter[bool]] = defaultdict(Counter)
        for event in traffic.decisions:
            in_it = from_us <= event.at_us < to_us and event.address is not None and fits(event, question)
            if in_it and traffic.figures([event], question.selection.status)[0].requests:
                expected[event.address or ""][event.code == "ok"] += 1
        total = sum(expected.values(), Counter[bool]())
        assert (found.total.requests, found.total.refused) == (total.total(), total[False]), question
        assert len(found.addresses) == min(1, len(expected))
        for each in found.addresses:
            assert (each.requests, each.refused) == (expected[each.address].total(), expected[each.address][False])
            assert each.requests == max(counts.total() for counts in expected.values())
        if found.covered.resolution is Step.MINUTE:
            assert found.covered.period == question.period
        assert found.complete
        held[found.covered.resolution] += found.total.requests
    assert held[Step.MINUTE] > 50
    assert held[Step.HOUR] > 50
