"""A worker that runs apart shows its numbers on a port of its own: to this machine, and to the operator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from apishield.bootstrap import prepare
from apishield.errors import ConfigurationError
from apishield.settings import Settings
from apishield.telemetry import Metrics
from apishield.workers.listener import MetricsListener
from apishield.workers.process import WorkerProcess
from tests.support.prometheus import promtool, read_samples

TOKEN = "the operator's"


async def _is_operator(secret: str) -> bool:
    return secret == TOKEN


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[MetricsListener]:
    running = MetricsListener(Metrics(), _is_operator, host="127.0.0.1", port=0)
    await running.start()
    yield running
    await running.close()


async def _get(listener: MetricsListener, path: str = "/metrics", **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{listener.port}") as client:
        return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_this_machine_sees_the_numbers(listener: MetricsListener) -> None:
    answer = await _get(listener)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "apishield_build_info" in answer.text


@pytest.mark.parametrize("headers", [{"host": "rebound.example"}, {"x_forwarded_for": "192.0.2.1"}])
async def test_others_need_the_operators_token(listener: MetricsListener, headers: dict[str, str]) -> None:
    assert (await _get(listener, **headers)).status_code == 401
    assert (await _get(listener, authorization="Bearer another's", **headers)).status_code == 401
    assert (await _get(listener, authorization=f"Bearer {TOKEN}", **headers)).status_code == 200


async def test_there_is_nothing_else(listener: MetricsListener) -> None:
    assert (await _get(listener, "/")).status_code == 404
    assert (await _get(listener, "/metrics/../v1/keys")).status_code == 404


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"\xff\xfe\r\n\r\n", b"GET", b"x" * 100_000, b"GET /metrics HTTP/1.1\r\n:\r\n\r\n"]
)
async def test_what_is_no_question_ends_the_connection_and_nothing_else(listener: MetricsListener, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(sent)
    writer.write_eof()
    with contextlib.suppress(ConnectionResetError):
        await reader.read()
    writer.close()
    assert (await _get(listener)).status_code == 200


async def test_a_port_that_is_taken_is_told(listener: MetricsListener) -> None:
    second = MetricsListener(Metrics(), _is_operator, host="127.0.0.1", port=listener.port)
    with pytest.raises(ConfigurationError, match=f"--metrics-port {listener.port} can't be listened on"):
        await second.start()


async def test_a_worker_shows_what_it_takes_and_knows_the_operator(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, secret="1:" + "c2VjcmV0" * 8)
    token = (await prepare(settings)).operator_token
    worker = WorkerProcess(settings, beside_service=False, metrics_at=("127.0.0.1", 0))
    assert worker._listener is not None
    stopping = asyncio.Event()
    running = asyncio.create_task(worker.run(stopping))
    while worker.drain is None or not worker.drain.stats.caught_up_at_us:
        await asyncio.sleep(0.01)
    answer = await _get(worker._listener, authorization=f"Bearer {token}", host="elsewhere")
    stranger = await _get(worker._listener, authorization="Bearer aso_" + "A" * 36, host="elsewhere")
    stopping.set()
    await running
    shown = read_samples(answer.text)
    assert shown["apishield_ledger_events_total",] == 0
    assert shown["apishield_spool_undrained_age_seconds",] >= 0
    assert shown["apishield_process_up", "ledger-1"] == 1
    assert stranger.status_code == 401
    promtool("check", "metrics", given=answer.text)
