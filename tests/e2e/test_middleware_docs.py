"""The snippets of the SDK's pages are run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from apishield.client import calls
from apishield.integrations.protection import ProtectionOptions
from tests.support.service import Service

DOCS = Path(__file__).parents[2] / "docs"
SDK = DOCS / "reference" / "sdk.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in sorted((DOCS / "how-to").glob("protect-*.md"))
    for number, code in enumerate(BLOCK.findall(page.read_text()))
]


def run(code: str) -> dict[str, Any]:
    """The names that ``code`` leaves behind."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, "snippet", "exec"), names)
    return names


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_how_to_makes_an_app_that_answers(code: str, redis_url: str, start_service: Callable[..., Service]) -> None:
    service = start_service()
    secret = service.sign_up()["api_key"]["key"]
    code = code.replace("http://localhost:8000", service.url).replace("sk_live_...", secret)
    names = run(code.replace("redis://localhost:6379/0", redis_url))
    app = names.get("app")
    if isinstance(app, FastAPI):
        with TestClient(app) as client:
            answer = client.get("/orders")
        assert answer.status_code in {200, 404, 405}, answer.text
    elif app is not None:
        with httpx2.Client(transport=httpx2.WSGITransport(app), base_url="http://api.test") as blocking:
            answer = blocking.get("/orders")
        assert answer.status_code == 200, answer.text
    else:
        assert set(names["APISHIELD"]) <= set(ProtectionOptions.__annotations__)
        return
    checked = "X-APIShield-Decision" in answer.headers or "RateLimit" in answer.headers
    assert checked == ("by_user" not in names)  # nobody said who the user is
    assert "X-APIShield-Degraded" not in answer.headers


def test_the_reference_is_run(start_service: Callable[..., Service]) -> None:
    service = start_service()
    made = service.sign_up()
    imports, session = BLOCK.findall(SDK.read_text())
    run(imports)
    session = session.replace("http://localhost:8000", service.url)
    run(session.replace("ast_...", made["token"]).replace("sk_live_...", made["api_key"]["key"]))


def test_the_reference_names_every_option_and_every_call() -> None:
    text = SDK.read_text()
    assert [option for option in ProtectionOptions.__annotations__ if f"| `{option}` |" not in text] == []
    public = [
        name
        for name, value in vars(calls).items()
        if callable(value) and getattr(value, "__module__", "") == calls.__name__ and name[0] not in "_C"
    ]
    assert [name for name in public if f"`{name}(" not in text and name not in {"check_one", "check_all"}] == []
