"""The processes of a node show one set of numbers: nothing counted twice, nothing lost that was shown, nothing piled up."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.telemetry import Metrics
from apishield.telemetry.shared import FRESH_US, Shared
from tests.support.clock import SECOND_US, ManualClock
from tests.support.prometheus import Samples, read_samples

FRESH_SECONDS = FRESH_US // SECOND_US


class Process:
    """One process of a node. ``kill`` ends it as the kernel would: its lock is gone, what it published stays."""

    def __init__(self, directory: Path, clock: ManualClock, role: str = "api") -> None:
        self.metrics = Metrics()
        self.metrics.show_data_plane()
        self.degraded = 0.0
        self.metrics.gauge("apishield_store_degraded", lambda: self.degraded)
        self.metrics.gauge("apishield_counters", lambda: 10)
        self.metrics.gauge("apishield_snapshot_keys", lambda: True)  # what a part says may be a whole number, or yes
        asyncio.run(self.metrics.join(directory, role, clock))
        assert self.metrics._shared is not None
        self.shared: Shared = self.metrics._shared

    def count(self, checks: int) -> None:
        self.metrics.checks["ok"] += checks
        self.metrics.decision_seconds.observe_many(0.0003, checks)

    def publish(self) -> None:
        asyncio.run(self.metrics.publish())

    def scrape(self) -> Samples:
        return read_samples(asyncio.run(self.metrics.scrape())[0])

    def kill(self) -> None:
        os.close(self.shared._lock)

    def leave(self) -> None:
        asyncio.run(self.metrics.leave())


def test_any_process_shows_the_sum_of_all(tmp_path: Path, clock: ManualClock) -> None:
    processes = [Process(tmp_path, clock) for _ in range(4)]
    for number, process in enumerate(processes):
        process.count(number + 1)
        process.publish()
    for process in processes:
        shown = process.scrape()
        assert shown["apishield_checks_total", "ok"] == 10
        assert shown["apishield_decision_seconds_bucket", "0.0005"] == 10
        assert shown["apishield_decision_seconds_count",] == 10
        assert shown["apishield_decision_seconds_sum",] == pytest.approx(0.003)


def test_a_gauge_is_the_highest_or_the_sum_and_a_process_number_has_the_process(
    tmp_path: Path, clock: ManualClock
) -> None:
    processes = [Process(tmp_path, clock), Process(tmp_path, clock, "ledger")]
    processes[1].degraded = 1.0
    processes[1].publish()
    shown = processes[0].scrape()
    assert shown["apishield_store_degraded",] == 1
    assert shown["apishield_counters",] == 20
    assert shown["process_open_fds", "api-1"] > 0
    assert shown["process_open_fds", "ledger-1"] > 0
    assert shown["apishield_snapshot_keys",] == 1


def test_what_a_killed_process_had_shown_stays_counted_and_its_gauges_go(tmp_path: Path, clock: ManualClock) -> None:
    killed, other = Process(tmp_path, clock), Process(tmp_path, clock)
    killed.degraded = 1.0
    killed.count(7)
    assert killed.scrape()["apishield_checks_total", "ok"] == 7
    killed.kill()
    assert other.scrape()["apishield_process_up", "api-1"] == 1  # nobody knows yet
    clock.advance(FRESH_SECONDS + 1)
    shown = other.scrape()
    assert shown["apishield_checks_total", "ok"] == 7
    assert shown["apishield_store_degraded",] == 0
    assert shown["apishield_process_up", "api-1"] == 0
    assert shown["apishield_process_up", "api-2"] == 1
    assert ("process_open_fds", "api-1") not in shown


def test_a_process_counts_on_in_the_slot_of_the_one_that_was_killed(tmp_path: Path, clock: ManualClock) -> None:
    first, _other = Process(tmp_path, clock), Process(tmp_path, clock)
    for _ in range(20):
        first.count(1)
        first.publish()
        first.kill()
        first = Process(tmp_path, clock)
    assert first.shared.process == "api-1"
    assert first.scrape()["apishield_checks_total", "ok"] == 20
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "api-1.lock", "api-1.numbers", "api-2.lock"}


def test_a_process_that_left_is_not_missed(tmp_path: Path, clock: ManualClock) -> None:
    left, other = Process(tmp_path, clock), Process(tmp_path, clock)
    left.count(3)
    left.leave()
    clock.advance(2 * FRESH_SECONDS)
    shown = other.scrape()
    assert shown["apishield_checks_total", "ok"] == 3
    assert ("apishield_process_up", "api-1") not in shown


def test_all_begins_at_zero_where_no_process_lives(tmp_path: Path, clock: ManualClock) -> None:
    for _ in range(2):
        processes = [Process(tmp_path, clock), Process(tmp_path, clock)]
        for process in processes:
            process.count(1)
            process.publish()
        assert processes[0].scrape()["apishield_checks_total", "ok"] == 2
        for process in processes:
            process.kill()


def test_a_directory_that_can_not_be_used_leaves_the_process_its_own_numbers(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "file").touch()
    metrics = Metrics()
    metrics.show_data_plane()
    metrics.checks["ok"] += 2
    asyncio.run(metrics.join(tmp_path / "file", "api", clock))
    assert read_samples(asyncio.run(metrics.scrape())[0])["apishield_checks_total", "ok"] == 2


def test_a_directory_that_is_lost_leaves_a_scrape_what_the_process_counted(tmp_path: Path, clock: ManualClock) -> None:
    process = Process(tmp_path / "metrics", clock)
    process.count(2)
    for path in (tmp_path / "metrics").iterdir():
        path.unlink()
    (tmp_path / "metrics").rmdir()
    assert process.scrape()["apishield_checks_total", "ok"] == 2


def test_a_file_that_is_damaged_or_of_another_version_is_passed_over(tmp_path: Path, clock: ManualClock) -> None:
    process = Process(tmp_path, clock)
    process.count(2)
    (tmp_path / "api-7.numbers").write_bytes(b"\\xc1")
    (tmp_path / "api-8.numbers").write_bytes(b"")
    assert process.scrape()["apishield_checks_total", "ok"] == 2


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("count"), st.integers(0, 2), st.integers(1, 5)),
            st.tuples(st.sampled_from(["publish", "scrape", "restart", "leave"]), st.integers(0, 2), st.just(0)),
        ),
        max_size=40,
    )
)
def test_no_counter_ever_goes_back_while_a_process_lives(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    directory, clock = tmp_path_factory.mktemp("metrics"), ManualClock()
    anchor = Process(directory, clock, "ledger")  # one lives all the time
    processes = [Process(directory, clock) for _ in range(3)]
    counted, seen = 0, 0.0
    for what, number, checks in steps:
        process = processes[number]
        if what == "count":
            process.count(checks)
            counted += checks
        elif what == "publish":
            process.publish()
        elif what == "scrape":
            shown = process.scrape().get(("apishield_checks_total", "ok"), 0.0)
            assert seen <= shown <= counted
            seen = shown
        else:
            process.kill() if what == "restart" else process.leave()
            processes[number] = Process(directory, clock)
    for process in processes:
        process.publish()
    assert seen <= anchor.scrape().get(("apishield_checks_total", "ok"), 0.0) <= counted
    for process in (anchor, *processes):
        process.kill()
