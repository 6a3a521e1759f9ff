"""What a log tells arrives at the service, whether that is there or not, in batches that it takes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from apishield.client.clients import AsyncAPIShield
from apishield.integrations.access_log import reporter as reporter_module
from apishield.integrations.access_log.positions import PositionFile
from apishield.integrations.access_log.reporter import BATCH, LogReporter
from apishield.integrations.access_log.sources import FileSource, LineReader, PipeSource, Source
from tests.support.fake_service import FakeService, serving

REFUSED = {"code": "database_unavailable", "status": 503, "title": "The database is away"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(reporter_module, "LONGEST_PAUSE_SECONDS", 0.001)


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService()
    async with serving(service) as url:
        service.url = url
        yield service


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncAPIShield]:
    async with AsyncAPIShield(service.url, api_key="sk_live_service", retries=0) as client:
        yield client


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"decision": "dec_%d", "status": 200, "seconds": 0.001}\n' % number for number in numbers)


def reported(service: FakeService) -> list[int]:
    return [int(report["decision_id"].removeprefix("dec_")) for report in service.reports]


def file_source(path: Path, reader: LineReader, *, once: bool = True) -> FileSource:
    return FileSource(path, PositionFile(path.with_name("reported")), reader, once=once)


async def run(client: AsyncAPIShield, source: Source, reader: LineReader | None = None) -> LogReporter:
    """Reports until the source ends."""
    reporter = LogReporter(client, source, reader or LineReader())
    async with asyncio.timeout(30):
        await reporter.run(asyncio.Event())
    return reporter


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_long_log_goes_out_in_batches_that_the_service_takes(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(*range(2 * BATCH + 500)) + b"no result\n")
    reader = LineReader()
    reporter = await run(client, file_source(path, reader), reader)
    assert reported(service) == list(range(2 * BATCH + 500))
    assert [count for _, count in service.requests] == [BATCH, BATCH, 500]
    assert reporter.summary() == "2500 results reported, 1 lines skipped"


async def test_what_is_reported_is_not_reported_again_by_the_next_start(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path
) -> None:
    path = tmp_path / "a.log"
    for start in (0, 3):
        with path.open("ab") as log:
            log.write(lines(*range(start, start + 3)))
        await run(client, file_source(path, LineReader()))
    assert reported(service) == list(range(6))


async def test_while_the_service_is_away_results_wait_in_the_log(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(1, 2))
    service.fails_with = (503, REFUSED)
    source = file_source(path, LineReader(), once=False)
    reporter, stopping = LogReporter(client, source, LineReader()), asyncio.Event()
    running = asyncio.create_task(reporter.run(stopping))
    await until(lambda: len(service.requests) >= 5)  # tried again and again
    with path.open("ab") as log:
        log.write(lines(3))
    service.fails_with = None
    await until(lambda: reporter.sent == 3)
    stopping.set()
    await running
    assert reported(service) == [1, 2, 3]
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # said once, not five times


async def test_told_to_stop_while_the_service_is_away_it_ends_and_the_next_start_sends_the_rest(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(1, 2))
    service.fails_with = (503, REFUSED)
    reporter, stopping = LogReporter(client, file_source(path, LineReader(), once=False), LineReader()), asyncio.Event()
    stopping.set()
    async with asyncio.timeout(30):
        await reporter.run(stopping)
    assert (reporter.sent, reporter.unsent) == (0, 2)
    service.fails_with = None
    await run(client, file_source(path, LineReader()))
    assert reported(service) == [1, 2]


async def test_told_to_stop_it_sends_what_there_is(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(*range(BATCH + 1)))
    stopping = asyncio.Event()
    stopping.set()
    async with asyncio.timeout(30):
        await LogReporter(client, file_source(path, LineReader(), once=False), LineReader()).run(stopping)
    assert len(reported(service)) == BATCH + 1


async def test_a_key_that_is_refused_holds_the_log_up_aloud_and_loses_nothing(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(1))
    service.fails_with = (401, {"code": "token_invalid", "status": 401, "title": "The key is wrong"})
    running = asyncio.create_task(run(client, file_source(path, LineReader())))
    await until(lambda: len(service.requests) >= 2)
    service.fails_with = None
    await running
    assert reported(service) == [1]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_results_whose_decision_could_not_be_settled_now_are_sent_again_and_no_others(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(0, 1, 2))
    rejected = [
        {"index": 1, "code": "store_unavailable", "message": "Report it again."},
        {"index": 2, "code": "report_too_old", "message": "Its books are closed."},
    ]
    answer = service._answer

    def once_rejected(request_path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answered = answer(request_path, body)
        if len(service.requests) == 1:
            return status, {"accepted": 1, "duplicates": 0, "rejected": rejected}
        return status, answered

    monkeypatch.setattr(service, "_answer", once_rejected)
    reporter = await run(client, file_source(path, LineReader()))
    assert reported(service) == [0, 1, 2, 1]
    assert reporter.summary() == "2 results reported, 1 rejected (report_too_old)"


async def test_a_batch_that_the_service_can_not_use_holds_up_nothing(
    service: FakeService, client: AsyncAPIShield, tmp_path: Path
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(1))
    service.fails_with = (422, {"code": "validation_failed", "status": 422, "title": "It can't be used"})
    reporter = await run(client, file_source(path, LineReader()))
    assert reporter.rejected == {"validation_failed": 1}


async def test_troubles_are_said_once_a_minute(
    client: AsyncAPIShield, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"noise\n" * 3)
    now = [0.0]
    reader, stopping = LineReader(), asyncio.Event()
    reporter = LogReporter(client, file_source(path, reader, once=False), reader, clock=lambda: now[0])
    running = asyncio.create_task(reporter.run(stopping))
    await until(lambda: reader.skipped.total() == 3)
    assert caplog.records == []
    now[0] += 60
    await until(lambda: len(caplog.records) == 1)
    stopping.set()
    await running
    assert [record.getMessage() for record in caplog.records] == ["3 lines skipped (it holds no JSON object)"]
    assert caplog.records[0].levelno == logging.WARNING


async def test_a_pipe_is_read_to_its_end_also_without_a_last_newline(
    service: FakeService, client: AsyncAPIShield
) -> None:
    readable, writable = os.pipe()
    source = PipeSource(readable, LineReader())
    source.start()
    os.write(writable, lines(1, 2, 3)[:-1])
    os.close(writable)
    await run(client, source)
    os.close(readable)
    assert reported(service) == [1, 2, 3]


async def test_a_pipe_is_never_held_up_the_oldest_results_go(service: FakeService, client: AsyncAPIShield) -> None:
    source = PipeSource(0, LineReader(), capacity=10)
    text = lines(*range(25))
    for begin in range(0, len(text), 7):  # however it is cut into pieces
        source.feed(text[begin : begin + 7])
    source.feed(b"")
    reporter = await run(client, source)
    assert reported(service) == list(range(15, 25))
    assert reporter.summary() == "10 results reported, 15 lost"


async def test_a_line_without_an_end_is_let_go_of() -> None:
    reader = LineReader()
    source = PipeSource(0, reader)
    for _ in range(40):
        source.feed(b"x" * 100_000)
    assert len(source._rest) <= 256 * 1024
    source.feed(b"\n" + lines(7))
    assert [report.decision_id for report in source.take(9)] == ["dec_7"]
    assert reader.skipped.total() > 0
