"""``RateLimitMiddleware`` in servers that fork, thread and exit."""

from __future__ import annotations

import asyncio
import sys

from tests.support.fake_service import FakeService, serving

ASK = """
import io, os, sys
from apishield.integrations.wsgi import RateLimitMiddleware

def hello(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

def ask(app):
    statuses = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.1", "wsgi.input": io.BytesIO()}
    body = app(environ, lambda status, headers: statuses.append(status[:3]))
    list(body)
    body.close() if hasattr(body, "close") else None
    return statuses[0]
"""


async def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASK + code, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert not err, err.decode()
    return out.decode()


async def test_a_server_may_fork_after_the_first_request() -> None:
    code = """
app = RateLimitMiddleware(hello, limit="2/hour")
print(ask(app), flush=True)
child = os.fork()
if not child:
    print(ask(app), ask(app), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(ask(app), ask(app))
"""
    assert await python(code) == "200\n200 429\n200 429\n"


async def test_reports_that_wait_when_the_process_exits_are_sent() -> None:
    service = FakeService()
    async with serving(service) as url:
        code = """
app = RateLimitMiddleware(hello, apishield_url=sys.argv[1], api_key="sk_live_service")
print([ask(app) for _ in range(3)])
"""
        assert await python(code, url) == "['200', '200', '200']\n"
    assert [report["status"] for report in service.reports] == [200, 200, 200]


async def test_a_process_exits_cleanly_when_the_service_has_gone() -> None:
    async with serving(FakeService()) as url:
        pass
    code = """
import logging
logging.disable()
app = RateLimitMiddleware(hello, apishield_url=sys.argv[1], api_key="sk_live_service")
print(ask(app))
"""
    assert await python(code, url) == "200\n"
