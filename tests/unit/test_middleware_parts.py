"""The parts that every integration shares: breaker, reports, answers, options."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from apishield.client.models import Report
from apishield.core.decision import Decision
from apishield.errors import ConfigurationError
from apishield.integrations.answers import added_headers, refusal, without_service
from apishield.integrations.breaker import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker
from apishield.integrations.callers import Incoming
from apishield.integrations.protection import Protection
from apishield.integrations.reports import ReportQueue
from tests.support.fake_service import allowed, refused

INCOMING = Incoming("GET", "/orders/1", None, "192.0.2.1", None, "trace-12345678")
SERVICE = {"apishield_url": "http://apishield.test", "api_key": "sk_live_service"}


def decision(fields: dict[str, Any]) -> Decision:
    return msgspec.convert(fields, Decision)


# --- breaker ----------------------------------------------------------------------------------------------------------


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_at_the_first_failure_and_lets_one_probe_through_after_a_pause() -> None:
    clock = Seconds()
    breaker = Breaker(clock)
    assert breaker.failed()
    assert not breaker.failed()  # of a request that was under way already
    assert breaker.is_open
    assert not breaker.claim_probe()
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.claim_probe()
    assert not breaker.claim_probe()


def test_a_breaker_waits_twice_as_long_after_each_probe_that_fails_up_to_a_bound() -> None:
    clock = Seconds()
    breaker = Breaker(clock)
    breaker.failed()
    pause = FIRST_PAUSE_SECONDS
    for _ in range(8):
        clock.now += pause
        assert breaker.claim_probe()
        breaker.failed()
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        clock.now += pause * 0.99
        assert not breaker.claim_probe()
        clock.now -= pause * 0.99
    assert pause == LONGEST_PAUSE_SECONDS


def test_a_breaker_closes_with_the_first_answer_and_starts_over() -> None:
    clock = Seconds()
    breaker = Breaker(clock)
    breaker.failed()
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.claim_probe()
    assert breaker.succeeded()
    assert not breaker.is_open
    assert not breaker.succeeded()
    breaker.failed()
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.claim_probe()


def test_a_probe_that_was_given_up_can_be_claimed_again() -> None:
    clock = Seconds()
    breaker = Breaker(clock)
    breaker.failed()
    clock.now += FIRST_PAUSE_SECONDS
    assert breaker.claim_probe()
    breaker.abandon_probe()
    assert breaker.claim_probe()


# --- reports ----------------------------------------------------------------------------------------------------------


def reports(*numbers: int) -> list[Report]:
    return [Report(decision_id=f"dec_{number}", status=200, latency_ms=1.0) for number in numbers]


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    queue = ReportQueue(capacity=3)
    for report in reports(1, 2, 3, 4, 5):
        queue.add(report)
    assert queue.take(10) == reports(3, 4, 5)
    assert queue.dropped == 2


def test_what_could_not_be_sent_goes_back_to_the_front_as_far_as_there_is_room() -> None:
    queue = ReportQueue(capacity=4)
    for report in reports(1, 2, 3):
        queue.add(report)
    unsent = queue.take(2)
    for report in reports(4, 5):
        queue.add(report)
    queue.put_back(unsent)
    assert queue.take(10) == reports(2, 3, 4, 5)
    assert queue.dropped == 1
    for report in reports(6, 7, 8, 9):
        queue.add(report)
    queue.put_back(unsent)
    assert queue.take(10) == reports(6, 7, 8, 9)
    assert queue.dropped == 3


# --- answers ----------------------------------------------------------------------------------------------------------


def test_what_the_app_says_itself_is_neither_doubled_nor_overwritten() -> None:
    names = {name for name, _ in added_headers(decision(allowed()), ["x-ratelimit-limit", "content-type"])}
    assert names == {"RateLimit", "RateLimit-Policy", "X-APIShield-Decision"}
    assert {name for name, _ in added_headers(decision(allowed()), ["ratelimit"])} == {
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
        "X-APIShield-Decision",
    }


def test_a_refusal_is_a_problem_document() -> None:
    answer = refusal(decision(refused("rate_limited", 429, **{"Retry-After": "13"}) | {"retry_after": 12.4}), INCOMING)
    assert msgspec.json.decode(answer.body) == {
        "type": "https://github.com/apishield/apishield/blob/main/docs/errors/rate_limited.md",
        "title": "Too many requests",
        "status": 429,
        "detail": "Because of rate_limited.",
        "instance": "/orders/1",
        "code": "rate_limited",
        "request_id": "trace-12345678",
        "decision_id": "dec_0000000000000000000000000000000000000000",
        "retry_after": 12.4,
    }
    headers = dict(answer.headers)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Content-Length"] == str(len(answer.body))
    assert headers["X-Request-Id"] == "trace-12345678"


@pytest.mark.parametrize(
    ("code", "status", "present", "absent"),
    [
        ("rate_limited", 429, "Retry-After", "WWW-Authenticate"),
        ("key_unknown", 401, "WWW-Authenticate", "Retry-After"),
        ("blocked", 403, "X-APIShield-Decision", "Retry-After"),
        ("store_unavailable", 503, "X-APIShield-Decision", "Retry-After"),
    ],
)
def test_retry_after_goes_with_429_only_and_a_challenge_with_401_only(
    code: str, status: int, present: str, absent: str
) -> None:
    both = {"Retry-After": "13", "WWW-Authenticate": 'Bearer realm="api"'}
    names = [name for name, _ in refusal(decision(refused(code, status, **both)), INCOMING).headers]
    assert names.count(present) == 1
    assert absent not in names


def test_a_429_that_can_never_pass_has_no_retry_after() -> None:
    names = {name for name, _ in refusal(decision(refused("rate_limited", 429)), INCOMING).headers}
    assert "Retry-After" not in names


def test_a_code_of_a_newer_service_still_makes_an_answer() -> None:
    answer = refusal(decision(refused("invented_later", 403)), INCOMING)
    assert answer.status == 403
    assert msgspec.json.decode(answer.body)["code"] == "invented_later"


@pytest.mark.parametrize(("on_error", "status", "allows"), [("allow", 200, True), ("deny", 503, False)])
def test_a_decision_that_was_made_without_the_service_says_so(on_error: str, status: int, allows: bool) -> None:
    made = without_service(on_error)
    assert (made.allowed, made.status, made.degraded) == (allows, status, True)
    assert ("X-APIShield-Degraded", "true") in added_headers(made)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got neither"),
        (SERVICE | {"limit": "100/minute"}, "not both"),
        ({"apishield_url": "http://apishield.test"}, "api_key is missing"),
        ({"api_key": "sk_live_service"}, "apishield_url is missing"),
        (SERVICE | {"per": "ip"}, "per can't be combined with apishield_url"),
        ({"limit": "100/minute", "require_key": True}, "require_key can't be combined with limit"),
        ({"limit": "100/minute", "timeout_seconds": 1.0}, "timeout_seconds can't be combined with limit"),
        (SERVICE | {"timeout_seconds": 1.5}, "timeout_seconds is 1.5"),
        (SERVICE | {"timeout_seconds": 0}, "timeout_seconds is 0"),
        (SERVICE | {"on_error": "ignore"}, "on_error is 'ignore'"),
        (SERVICE | {"apishield_url": "localhost:8000"}, "localhost:8000"),
        (SERVICE | {"cost": -1}, "cost is -1"),
        (SERVICE | {"cost": 1.5}, "cost is 1.5"),
        (SERVICE | {"exempt": "/healthz"}, "exempt"),
        (SERVICE | {"exempt": ["healthz"]}, "exempt has 'healthz'"),
        (SERVICE | {"exempt": ["/*/x"]}, "exempt"),
        ({"limit": "lots"}, "limit: 'lots'"),
        ({"limit": []}, "limit is empty"),
        ({"limit": "100/minute", "per": "user"}, "per is 'user'"),
        ({"limit": "100/minute", "store": "memcached://x"}, "store is 'memcached://x'"),
        ({"limit": "100/minute", "cost": {"tokens": 1}}, "cost is {'tokens': 1}"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_the_start_by_name(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Protection(**options)
    assert message in str(raised.value)


def test_an_option_that_does_not_exist_is_named_beside_those_that_do() -> None:
    with pytest.raises(TypeError, match=r"limits is not an option; there are .*limit"):
        Protection(limits="100/minute")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("path", "exempt"),
    [
        ("/healthz", True),
        ("/healthz/", False),
        ("/static/app.js", True),
        ("/static", False),
        ("/static/../orders", False),
        ("/static/./x", False),
        ("/static//x", False),
        ("/static/\\..\\orders", False),
        ("/orders", False),
    ],
)
def test_only_the_named_paths_are_exempt_and_no_detour_through_them(path: str, exempt: bool) -> None:
    assert Protection(limit="100/minute", exempt=["/healthz", "/static/*"]).exempts(path) is exempt
