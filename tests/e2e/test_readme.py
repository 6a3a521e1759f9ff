"""The README is followed to the letter: its commands are run, its snippet is served, its promises are looked at."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.mistakes import mistype
from tests.support.processes import Reaper, ServerProcess, accepts_connections, free_port, wait_until
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial" / "index.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"export (\w+)=(\w+_)\.\.\.")
Start = Callable[..., Service]


def blocks(language: str, page: Path = README) -> list[str]:
    """A page's blocks of code in one language."""
    return [code for found, code in BLOCK.findall(page.read_text()) if found == language]


class Reader:
    """Somebody who follows the README: types each block, and fills in what an answer has shown."""

    def __init__(self, service: Service, api_port: int) -> None:
        self.service, self.api_port = service, api_port
        self.variables: dict[str, str] = {}
        self.last: Any = None

    def follow(self, block: str) -> str:
        placeholders = PLACEHOLDER.findall(block)
        if placeholders:
            for name, prefix in placeholders:
                self.variables[name] = found_in(self.last, prefix)
            return ""
        text = block.replace("localhost:8000", f"localhost:{self.service.port}")
        text = text.replace("localhost:9000", f"localhost:{self.api_port}").replace("curl ", "curl -s ")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], env={"PATH": "/usr/bin:/bin", **self.variables},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        rest = done.stdout.strip()
        while rest.startswith("{"):
            self.last, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].strip()
        return done.stdout

    def follow_until(self, block: str, is_there: Callable[[Any], bool]) -> None:
        """Follows a block again until what it shows is there: on a busy machine the ledger's process starts late."""
        wait_until(lambda: bool(self.follow(block)) and is_there(self.last), "the ledger to hold all that was answered")


def found_in(value: Any, prefix: str) -> str:
    """The first text in a JSON value that begins with ``prefix`` and is no hint."""
    if isinstance(value, str):
        return value if value.startswith(prefix) and "…" not in value else ""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for item in items if (found := found_in(item, prefix))), "")


@pytest.fixture
def api_port() -> int:
    """Where the reader's own API listens."""
    return free_port()


def serve_snippet(reaper: Reaper, directory: Path, snippet: str, api_port: int) -> ServerProcess:
    """The README's app behind a real uvicorn."""
    directory.mkdir()
    (directory / "app.py").write_text(snippet)
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(api_port), "--no-access-log"]
    return ServerProcess(reaper, command, lambda: accepts_connections(api_port), directory=directory)


def test_the_readme_works_to_the_letter(start_service: Start, reaper: Reaper, tmp_path: Path, api_port: int) -> None:
    service = start_service()
    reader = Reader(service, api_port)
    clone, sign_up, first_exports, make_key, second_exports, check, usage, summary, replay, block, call = blocks("bash")
    assert clone.splitlines()[-1] == "make run"  # which test_make runs

    reader.follow(sign_up)
    assert reader.last["name"] == "My App"
    reader.follow(first_exports)
    reader.follow(make_key)
    assert reader.last["rate_limit"]["requests"] == 5
    reader.follow(second_exports)

    verdicts = [json.loads(reader.follow(check)) for _ in range(6)]
    assert [verdict["allowed"] for verdict in verdicts] == [True] * 5 + [False]
    assert verdicts[-1]["code"] == "rate_limited"
    assert 0 < verdicts[-1]["retry_after"] <= 60
    reader.follow_until(usage, lambda answer: answer["totals"]["today"] == 6)
    assert reader.last["rate_limits"][0] == {**reader.last["rate_limits"][0], "limit": 5, "used": 5, "remaining": 0}
    assert (reader.last["quota"]["limit"], reader.last["quota"]["used"]) == (500_000, 5)
    assert reader.last["totals"] == {"today": 6, "this_month": 6, "allowed": 5, "refused": 1}
    reader.follow(summary)
    assert (reader.last["allowed"], reader.last["refused_by_code"]) == (5, {"rate_limited": 1})
    reader.follow_until(replay, lambda answer: answer["status"] == "done")
    assert (reader.last["result"]["of"], reader.last["result"]["would_refuse"]) == (5, 2)
    reader.follow(block)
    assert reader.last["reason"] == "scraping"
    blocked = json.loads(reader.follow(check.replace("203.0.113.7", "1.2.3.4")))
    assert (blocked["status"], blocked["code"]) == (403, "blocked")

    # A second key, so that the API starts with a whole limit.
    reader.follow(make_key)
    reader.follow(second_exports)
    snippet = blocks("python")[0].replace("localhost:8000", f"localhost:{service.port}")
    snippet = snippet.replace("sk_live_...", reader.variables["SERVICE_KEY"])
    api = serve_snippet(reaper, tmp_path / "app", snippet, api_port)
    try:
        assert reader.follow(call).split() == ["200"] * 5 + ["429"] * 2
        refused(f"http://localhost:{api_port}/orders", reader.variables["CALLER_KEY"])
    finally:
        api.kill()


def refused(url: str, caller_key: str) -> None:
    """What the README says about refusals."""
    limited = httpx2.get(url, headers={"X-API-Key": caller_key})
    assert limited.status_code == 429
    assert limited.headers["content-type"] == "application/problem+json"
    assert limited.json()["code"] == "rate_limited"
    assert 0 < int(limited.headers["retry-after"]) <= 60
    assert "RateLimit" in limited.headers
    assert limited.headers["x-ratelimit-remaining"] == "0"
    wrong = httpx2.get(url, headers={"X-API-Key": mistype(caller_key)})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "key_malformed")


def test_the_snippet_without_a_service_works(reaper: Reaper, tmp_path: Path, api_port: int) -> None:
    protected, alone = blocks("python")
    lines = [line if "add_middleware" not in line else alone for line in protected.splitlines()]
    snippet = "\n".join(lines).replace("100/minute", "3/minute")
    api = serve_snippet(reaper, tmp_path / "app", snippet, api_port)
    try:
        answers = [httpx2.get(f"http://localhost:{api_port}/orders").status_code for _ in range(5)]
    finally:
        api.kill()
    assert answers == [200, 200, 200, 429, 429]


def test_the_tutorial_works_to_the_letter(start_service: Start, reaper: Reaper, tmp_path: Path, api_port: int) -> None:
    reader = Reader(start_service(), api_port)
    clone, sign_up, first_exports, make_key, second_exports, check, serve, call, finish = blocks("bash", TUTORIAL)
    assert clone.splitlines()[-1] == "make run"
    assert serve == "uvicorn teas:app --port 9000\n"
    for block in (sign_up, first_exports, make_key, second_exports):
        reader.follow(block)
    assert json.loads(reader.follow(check))["code"] == "ok"
    assert json.loads(reader.follow(check.replace("GET", "POST")))["code"] == "scope_missing"

    snippet = blocks("python", TUTORIAL)[0].replace("localhost:8000", f"localhost:{reader.service.port}")
    snippet = snippet.replace("sk_live_...", reader.variables["SERVICE_KEY"])
    api = serve_snippet(reaper, tmp_path / "app", snippet, api_port)
    try:
        statuses, _, shown = reader.follow(call).partition("HTTP/1.1 ")
    finally:
        api.kill()
    assert statuses.split()[:9] == ["200"] * 9
    assert "429" in statuses + shown
    reader.follow(finish)
    assert reader.last["status"] == "revoked"


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: str(page.name))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
