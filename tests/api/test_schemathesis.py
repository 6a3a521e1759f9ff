"""Whatever the OpenAPI document allows, and much that it does not: no failure inside, and every answer as documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from apishield.api.app import document
from apishield.api.dataplane import document as dataplane
from tests.support.processes import Reaper
from tests.support.service import Service

# What a schema can't say (a name is one line, a network has no host bits, a limit's name is unique) is 422 all the same;
# and a header that is no header of ours is ignored, not refused.
UNFIT = "positive_data_acceptance"


@pytest.fixture(scope="module")
def running(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of its own, as an operator starts it."""
    service = Service(reaper, tmp_path_factory.mktemp("schemathesis"), {"APISHIELD_LOG_LEVEL": "warning"})
    yield service
    service.kill()


@pytest.fixture(scope="module")
def connection() -> Iterator[requests.Session]:
    """Thousands of requests over one connection."""
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def credentials(running: Service) -> dict[str, str]:
    """The operator, who may do everything, in a tenant."""
    return {"Authorization": f"Bearer {running.operator_token}", "X-APIShield-Tenant": running.sign_up()["id"]}


@pytest.fixture(scope="module")
def belongings(running: Service, credentials: dict[str, str]) -> dict[str, str]:
    """One of each thing that a path can name."""

    def make(path: str, body: dict[str, Any]) -> str:
        answer = httpx2.post(f"{running.url}{path}", json=body, headers=credentials)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    question = {"method": "GET", "path": "/things/1"}
    decision = httpx2.post(f"{running.url}/v1/check", json=question, headers=credentials).json()
    decision_id = str(decision["decision_id"])
    return {
        "key_id": make("/v1/keys", {"name": "k", "rate_limit": "5/minute", "quota": {"monthly_requests": 5}}),
        "customer_id": make("/v1/customers", {"name": "c"}),
        "token_id": make("/v1/tokens", {"name": "t", "role": "viewer"}),
        "policy_id": make("/v1/policies", {"name": "p", "per": ["ip"], "limit": "5/minute"}),
        "endpoint_id": make("/v1/endpoints", {"method": "GET", "path": "/things/{id}"}),
        "block_id": make("/v1/blocklist", {"ip": "192.0.2.1"}),
        "allow_id": make("/v1/allowlist", {"ip": "192.0.2.1"}),
        "tenant_id": str(running.sign_up("Other")["id"]),
        "decision_id": decision_id,
        "receipt_id": decision_id,
    }


TENANT = {"$ref": "#/components/parameters/Tenant"}


def without_long_lists(node: Any) -> Any:
    """The schema without bounds that only thousands of items reach: making them takes minutes."""
    if isinstance(node, dict):
        return {
            name: without_long_lists(inner)
            for name, inner in node.items()
            if not (name == "maxItems" and isinstance(inner, int) and inner > 100)
        }
    return [without_long_lists(inner) for inner in node] if isinstance(node, list) else node


def asked_by_the_operator(whole: dict[str, Any]) -> dict[str, Any]:
    """The document without what each request here says anyway; who may do what has tests of its own. Nor is a stream that
    never ends asked for.
    """
    del whole["paths"]["/v1/analytics/live"]
    for item in whole["paths"].values():
        for operation in item.values():
            operation.pop("security")
            operation["parameters"] = [given for given in operation.get("parameters", ()) if given != TENANT]
    return whole


def without_gateways(fragment: dict[str, Any]) -> dict[str, Any]:
    """The data plane but for what only a gateway asks, in its own headers; ``test_gateways`` holds that."""
    paths = {path: item for path, item in fragment["paths"].items() if not path.startswith("/gateway/")}
    return {**fragment, "paths": paths}


def named(*names: str) -> list[Any]:
    return [check for check in CHECKS.get_all() if check.__name__ in names]


# Boundary by boundary and method by method it takes minutes: that is for HYPOTHESIS_PROFILE=thorough.
THOROUGH = settings.get_current_profile_name() == "thorough"
CONFIG = {
    "checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}},  # which one, the tests of each route hold
    "phases": {"coverage": {"enabled": THOROUGH}},
}
api = schemathesis.openapi.from_dict(
    asked_by_the_operator(without_long_lists(document(without_gateways(dataplane.document())))),
    config=schemathesis.Config.from_dict(CONFIG),
)


@api.parametrize()
@settings(max_examples=30 if THOROUGH else 15, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_answers_as_documented(
    case: schemathesis.Case[Any],
    running: Service,
    connection: requests.Session,
    credentials: dict[str, str],
    belongings: dict[str, str],
) -> None:
    def ask(*unfit: str) -> None:
        case.call_and_validate(running.url, connection, headers=credentials, excluded_checks=named(*unfit))

    # Each item of these is read by itself: a bad one is told so in the answer, and spoils no other.
    by_item = ("negative_data_rejection",) if case.path in {"/v1/check/batch", "/v1/report", "/v1/keys/import"} else ()
    ask(UNFIT, *by_item)
    if case.path_parameters:
        case.path_parameters = {name: belongings.get(name, value) for name, value in case.path_parameters.items()}
        ask(UNFIT, "negative_data_rejection")  # what was wrong may have been the id
