"""What a gateway answered is in the decisions and in the analytics, once, whatever happens to the log and to who reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.gateways import Behind, Reporter
from tests.support.nginx import Nginx
from tests.support.processes import Reaper, wait_until
from tests.support.service import Service


@pytest.fixture
def behind(start_service: Callable[..., Service]) -> Behind:
    return Behind(start_service())


@pytest.fixture
def nginx(behind: Behind, reaper: Reaper, tmp_path: Path) -> Iterator[Nginx]:
    directory = tmp_path / "nginx"
    directory.mkdir()
    nginx = Nginx(reaper, directory, behind.service, behind.service_key)
    yield nginx
    nginx.kill()


@pytest.fixture
def reporter(behind: Behind, nginx: Nginx, reaper: Reaper, tmp_path: Path) -> Iterator[Reporter]:
    reporter = Reporter(reaper, tmp_path / "reporter", behind.service, behind.service_key, nginx.results)
    yield reporter
    reporter.kill()


def logged(nginx: Nginx) -> dict[str, Any]:
    lines = [json.loads(line) for line in nginx.results.read_text().splitlines()]
    return {line["decision"]: line for line in lines}


def test_what_nginx_answered_is_in_the_decisions_and_in_the_analytics(
    behind: Behind, nginx: Nginx, reporter: Reporter
) -> None:
    expected = {"/orders": 200, "/missing": 404, "/broken": 500, "/private": 401}
    answers = {path: behind.ask(nginx.url, path) for path in expected}
    assert {path: answer.status_code for path, answer in answers.items()} == expected
    allowed = [behind.ask(nginx.url) for _ in range(26)]
    refused = [behind.ask(nginx.url) for _ in range(5)]
    unknown = httpx2.get(f"{nginx.url}/orders", headers={"X-API-Key": "sk_live_nonsense"})
    assert {answer.status_code for answer in allowed} == {200}
    assert {answer.status_code for answer in refused} == {429}
    assert unknown.status_code == 401

    summary = behind.wait_for_results(30, lambda: reporter.log)
    assert (summary["requests"], summary["allowed"], summary["results"], summary["errors"]) == (36, 30, 30, 1)
    # Refusals by their own status; 401 of the API is a result, 401 of the gateway is not.
    assert summary["statuses"] == {"1xx": 0, "2xx": 27, "3xx": 0, "4xx": 2 + 6, "5xx": 1}
    assert summary["latency"]["p99"] is not None
    lines = logged(nginx)
    assert summary["bytes"] == sum(line["bytes"] for line in lines.values())
    for path, answer in answers.items():
        result, line = behind.result(answer), lines[answer.headers["X-APIShield-Decision"]]
        assert result is not None
        assert (result["status"], result["bytes"]) == (expected[path], len(answer.content))
        assert result["latency_ms"] == line["seconds"] * 1000
    assert [behind.result(answer) for answer in (*refused[:1], unknown)] == [None, None]


def test_results_come_once_over_rotations_and_kills(behind: Behind, nginx: Nginx, reporter: Reporter) -> None:
    answers = [behind.ask(nginx.url) for _ in range(4)]
    behind.wait_for_results(4, lambda: reporter.log)
    nginx.rotate()
    answers += [behind.ask(nginx.url) for _ in range(4)]
    behind.wait_for_results(8, lambda: reporter.log)
    reporter.kill()
    answers += [behind.ask(nginx.url) for _ in range(4)]  # before a rotation that nobody sees
    wait_until(lambda: len(logged(nginx)) >= 8, "Nginx to write its log")
    nginx.rotate()
    wait_until(nginx.results.exists, "Nginx to open its log")
    answers += [behind.ask(nginx.url) for _ in range(4)]
    reporter.start()
    behind.wait_for_results(16, lambda: reporter.log)
    nginx.copy_and_empty()
    answers += [behind.ask(nginx.url) for _ in range(4)]
    reporter.kill()
    reporter.log_path.with_name("position").unlink()
    reporter.start()  # knows nothing any more: what lies in the log it reports again
    summary = behind.wait_for_results(20, lambda: reporter.log)
    assert reporter.terminate() == 0
    assert "known already" not in reporter.log
    assert (summary["results"], summary["statuses"]["2xx"], summary["bytes"]) == (20, 20, 20 * len("the API"))
    assert all(behind.result(answer) for answer in answers)


def test_results_wait_for_a_service_that_is_away_and_a_stop_sends_what_there_is(
    behind: Behind, nginx: Nginx, reporter: Reporter
) -> None:
    answers = [behind.ask(nginx.url) for _ in range(3)]
    behind.service.terminate()
    wait_until(lambda: "results wait, trying again" in reporter.log or len(logged(nginx)) == 3, "the results to wait")
    behind.service.start()
    behind.wait_for_results(3, lambda: reporter.log)
    answers += [behind.ask(nginx.url) for _ in range(3)]
    wait_until(lambda: len(logged(nginx)) == 6, "Nginx to write its log")
    assert reporter.terminate() == 0
    assert reporter.log.rstrip().splitlines()[-1].endswith("results reported")
    behind.wait_for_results(6, lambda: reporter.log)
    assert all(behind.result(answer) for answer in answers)


def test_what_a_log_daemon_pipes_in_is_reported_to_its_end(behind: Behind, nginx: Nginx) -> None:
    answers = [behind.ask(nginx.url) for _ in range(3)]
    wait_until(lambda: len(logged(nginx)) == 3, "Nginx to write its log")
    lines = nginx.results.read_text().splitlines()
    piped = "".join(f"<190>Nov 23 19:00:00 edge nginx: {line}\n" for line in lines) + "a line of somebody else\n"
    command = [sys.executable, "-m", "apishield.cli", "report-log", "--stdin", "--url", behind.service.url]
    environment = {"PATH": os.environ["PATH"], "APISHIELD_API_KEY": behind.service_key}
    done = subprocess.run(
        command, input=piped, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "3 results reported, 1 lines skipped\n")
    behind.wait_for_results(3)
    assert all(behind.result(answer) for answer in answers)


def test_wrong_usage_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    def fails_with(*arguments: str, **environment: str) -> str:
        command = [sys.executable, "-m", "apishield.cli", "report-log", *arguments]
        settings = {"PATH": os.environ["PATH"], "COLUMNS": "200", **environment}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        return line

    assert "or --stdin" in fails_with()
    assert "or --stdin" in fails_with("--stdin", "access.log")
    assert "set APISHIELD_API_KEY" in fails_with(str(tmp_path / "a.log"))
    assert "can't be read" in fails_with(str(tmp_path / "a.log"), "--api-key-file", str(tmp_path / "none"))
    key = {"APISHIELD_API_KEY": "sk_live_x"}
    (tmp_path / "a.log").touch()
    assert "--position-file" in fails_with(str(tmp_path / "none" / "a.log"), **key)
    assert "can't be read" in fails_with(str(tmp_path), "--position-file", str(tmp_path / "position"), **key)
    assert "give one such as http" in fails_with(str(tmp_path / "a.log"), "--url", "nonsense", **key)
