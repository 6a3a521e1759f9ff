"""``pip install apishield`` stays light: the built wheel, in a bare environment, with its base dependencies only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
BASE = {
    *("anyio", "apishield", "h11", "httpcore2", "httpx2", "idna", "msgspec", "mypy-extensions"),
    *("truststore", "typing-extensions"),
}
SERVER = {
    "aiosqlite", "alembic", "cryptography", "django", "fastapi", "flask", "prometheus_client", "psycopg", "pydantic",
    "redis", "rich", "sqlalchemy", "starlette", "structlog", "typer", "uvicorn",
}  # fmt: skip


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel installed as users install it, in the versions of the lock file."""
    directory = tmp_path_factory.mktemp("light")
    run(str(UV), "build", "--quiet", "--wheel", "--out-dir", str(directory), str(ROOT))
    (wheel,) = directory.glob("*.whl")
    python = directory / "venv" / "bin" / "python"
    run(str(UV), "venv", "--quiet", "--python", sys.executable, str(python.parents[1]))
    locked = str(ROOT / "requirements" / "server.txt")
    run(str(UV), "pip", "install", "--quiet", "--python", str(python), "--constraint", locked, str(wheel))
    return python


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def loaded_by(python: Path, code: str) -> set[str]:
    """The top-level modules that ``code`` leaves loaded."""
    shown = run(str(python), "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))")
    return {name.partition(".")[0] for name in json.loads(shown.splitlines()[-1])}


def test_the_base_install_brings_only_the_sdks_packages(bare_python: Path) -> None:
    listed = json.loads(run(str(UV), "pip", "list", "--quiet", "--format", "json", "--python", str(bare_python)))
    assert {package["name"] for package in listed} <= BASE


def test_importing_the_package_loads_nothing_but_itself(bare_python: Path) -> None:
    loaded = loaded_by(
        bare_python, "import apishield; assert apishield.__version__; assert 'APIShield' in dir(apishield)"
    )
    assert not loaded & (SERVER | (BASE - {"apishield"}))
    assert "asyncio" not in loaded


def test_a_limit_without_a_service_loads_no_client_and_no_server(bare_python: Path) -> None:
    code = """
import asyncio
from apishield import RateLimitMiddleware

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

async def ask(protected):
    sent = []
    async def send(message): sent.append(message)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
    await protected(scope, None, send)
    return sent[0]["status"]

async def main():
    protected = RateLimitMiddleware(app, limit="2/hour", per="ip", store="memory://")
    assert [await ask(protected) for _ in range(3)] == [200, 200, 429]

asyncio.run(main())
"""
    assert not loaded_by(bare_python, code) & (SERVER | {"httpx2", "anyio"})


def test_the_middleware_and_the_clients_load_no_server(bare_python: Path) -> None:
    code = """
from apishield import APIShield, AsyncAPIShield, RateLimitMiddleware
from apishield.integrations import wsgi
RateLimitMiddleware(None, apishield_url="http://localhost:8000", api_key="sk_live_x")
wsgi.RateLimitMiddleware(None, apishield_url="http://localhost:8000", api_key="sk_live_x")
APIShield("http://localhost:8000").close()
"""
    assert not loaded_by(bare_python, code) & SERVER


def test_a_redis_without_its_extra_is_an_error_that_names_the_command(bare_python: Path) -> None:
    code = """
from apishield import RateLimitMiddleware
try:
    RateLimitMiddleware(None, limit="1/hour", store="redis://localhost")
except Exception as error:
    assert 'pip install "apishield[redis]"' in str(error), error
else:
    raise AssertionError("no error")
"""
    loaded_by(bare_python, code)


def test_the_wheel_is_typed(bare_python: Path) -> None:
    run(
        str(bare_python),
        "-c",
        "import apishield, pathlib; assert (pathlib.Path(apishield.__file__).parent / 'py.typed').exists()",
    )
