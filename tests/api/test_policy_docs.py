"""The requests of the how-to about endpoints do what the page says, one after the other."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.api.support import Caller, Service, Tenant

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "limit-by-endpoint.md"
REQUEST = re.compile(r"```http\n(GET|POST) (\S+)\n(.*?)```", re.DOTALL)


async def test_every_request_of_the_page_works_and_the_last_check_is_refused_as_it_says(
    service: Service, alice: Tenant
) -> None:
    asker = Caller(service.client, alice.service_key)
    made = {"id": ""}
    codes = []
    for method, path, body in REQUEST.findall(PAGE.read_text()):
        caller = asker if path == "/v1/check" else alice
        response = await caller.ask(method, path.format(**made), json.loads(body) if body else None)
        assert response.status_code in {200, 201}, response.text
        answer = response.json()
        assert not answer.get("failed")
        made = answer if "id" in answer else made
        codes.append(answer.get("code"))
    assert len(codes) == 7
    assert codes[-1] == "key_missing"
