"""``apishield conformance`` over HTTP and in real time: the real service, and an endpoint whose limiter is wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from apishield.conformance.run import run
from apishield.conformance.schedules import Promise
from apishield.conformance.score import NEVER_OVER, Score
from apishield.conformance.targets import UrlTarget
from apishield.core.model import SECOND_US, SlidingWindow
from apishield.core.rate_limiter.parse import RateAlgorithm
from apishield.errors import APIShieldError
from tests.conformance import wrong_limiters as wrong
from tests.support.fake_service import serving
from tests.support.service import Service

ROOT = Path(__file__).parents[2]


def conformance(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "apishield.cli", "conformance", *arguments],
        cwd=directory,
        env={"PATH": os.defpath, "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_real_service_keeps_every_promise_and_its_keys_are_revoked_afterwards(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_service()
    token = service.sign_up()["token"]
    done = conformance(
        tmp_path, "--target", service.url, "--token", token, "--limit", "6/1s", "--limit", "8/2s burst 8", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (score,) = json.loads(done.stdout)
    assert score["broken"] == []
    assert score["over_units"] == 0
    assert score["admitted"] > 50
    assert {Promise.REFUSALS_FREE, Promise.RACE, Promise.TOGETHER} <= set(score["trials"])
    keys = httpx2.get(f"{service.url}/v1/keys?limit=100", headers={"Authorization": f"Bearer {token}"}).json()["data"]
    assert {key["status"] for key in keys if key["name"] == "apishield conformance"} == {"revoked"}


class Endpoint:
    """An ASGI app behind a limiter; tells whole seconds to wait, rounded up."""

    def __init__(self, limiter: wrong.Exact) -> None:
        self.limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = dict(scope["headers"]).get(b"x-api-key", b"").decode()
        told = self.limiter.hit(key, 1, time.time_ns() // 1000)
        admitted, seconds = told if isinstance(told, tuple) else await told
        headers = [] if seconds is None else [(b"retry-after", b"%d" % math.ceil(seconds))]
        await send({"type": "http.response.start", "status": 200 if admitted else 429, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def test_an_endpoint_that_is_exact_keeps_every_promise() -> None:
    rules = [SlidingWindow(5, 2 * SECOND_US)]
    async with serving(Endpoint(wrong.Exact(rules))) as url:
        score = await scored(url, {"X-API-Key": "{subject}"}, rules)
    assert score.broken == []
    assert score.admitted > 30


async def test_an_endpoint_that_approximates_is_found_to_go_over() -> None:
    rules = [SlidingWindow(8, 2 * SECOND_US)]  # long, so that a busy machine's delays hide nothing
    async with serving(Endpoint(wrong.TwoCounters(rules))) as url:
        score = await scored(url, {"X-API-Key": "{subject}"}, rules)
    assert NEVER_OVER in score.broken


async def test_an_endpoint_whose_limiter_looks_before_it_charges_loses_the_race() -> None:
    rules = [SlidingWindow(5, SECOND_US)]
    async with serving(Endpoint(wrong.NotAtomic(rules))) as url:
        score = await scored(url, {"X-API-Key": "{subject}"}, rules)
    assert Promise.RACE in score.broken


async def test_without_subjects_to_be_had_schedules_wait_for_each_other() -> None:
    rules = [SlidingWindow(4, SECOND_US)]
    async with serving(Endpoint(wrong.Exact(rules))) as url:
        score = await scored(url, {"X-API-Key": "the only one"}, rules)
    assert score.broken == []


async def test_an_answer_that_is_neither_yes_nor_no_ends_the_run() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(broken) as url:
        with pytest.raises(APIShieldError, match="answered 500"):
            await scored(url + "/{subject}", {}, [SlidingWindow(5, SECOND_US)])


async def scored(url: str, headers: dict[str, str], rules: Sequence[RateAlgorithm]) -> Score:
    target = UrlTarget(url, headers)
    try:
        return await run(target, rules)
    finally:
        await target.close()


ADAPTER = """
from tests.conformance.wrong_limiters import ChargesRefusals as make
"""


def test_a_broken_promise_is_exit_code_1_and_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ADAPTER)
    done = conformance(tmp_path, "--adapter", "mine:make", "--limit", "20/minute", "--rounds", "2")
    assert done.returncode == 1, done.stderr
    assert any(Promise.REFUSALS_FREE in line and "BROKEN" in line for line in done.stdout.splitlines()), done.stdout
    assert any(NEVER_OVER in line and "kept" in line for line in done.stdout.splitlines())


def test_the_adapter_of_the_how_to_runs_and_keeps_its_promises(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/score-a-limiter.md").read_text()
    (tmp_path / "my_limiter.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    done = conformance(tmp_path, "--adapter", "my_limiter:Naive", "--limit", "20/minute fixed", "--rounds", "3")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "exactly one of"),
        (["--url", "http://localhost:1", "--target", "http://localhost:1"], "exactly one of"),
        (["--url", "http://localhost:1"], "--limit"),
        (["--url", "localhost", "--limit", "5/1s"], "URL"),
        (["--url", "http://localhost:1", "--limit", "5/century"], "century"),
        (["--url", "http://localhost:1", "--limit", "5/1s", "--header", "X-API-Key"], "header"),
        (["--target", "http://localhost:1"], "--token"),
        (["--adapter", "mine", "--limit", "5/1s"], "module:object"),
        (["--adapter", "nowhere:make", "--limit", "5/1s"], "nowhere"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_wrong(tmp_path: Path, arguments: list[str], fault: str) -> None:
    done = conformance(tmp_path, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert fault in done.stderr


def test_a_target_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = conformance(tmp_path, "--url", "http://127.0.0.1:9/", "--limit", "5/1s")
    assert done.returncode == 1
    assert "can't be reached" in done.stderr
    assert "Traceback" not in done.stderr
