"""Log lines carry no secrets and can't be faked; metrics show what was counted."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from apishield.redaction import escape, redact, redact_url
from apishield.telemetry import LATENCY_BUCKETS, Latency, Metrics, configure_logging
from apishield.telemetry.catalogue import DEFINITIONS, Kind
from apishield.telemetry.metrics import MAX_LIMITS, LimitRefusals
from apishield.telemetry.reference import page
from tests.support.prometheus import read_samples

PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"
SECRET = "Q" * 36
CREDENTIALS = [prefix + SECRET for prefix in ("sk_live_", "sk_test_", "ast_", "aso_")]
URLS = ["postgresql://user:QQQQ@host/db", "redis://:Q/Q@Q@host:6379/0", "rediss+sentinel://u:QQQQ@a:1,b:2/main"]


@pytest.fixture
def written() -> Iterator[Callable[[], str]]:
    """Everything logged as JSON lines, until the test ends."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    configure_logging("debug", "json", stream)
    yield stream.getvalue
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("secret", CREDENTIALS + URLS)
def test_no_secret_is_written_wherever_it_stands(secret: str, written: Callable[[], str]) -> None:
    log = structlog.get_logger("test")
    log.info(f"in the event {secret}", value=secret, nested={"deep": [secret], secret: 1}, thing=ValueError(secret))
    logging.getLogger("uvicorn.error").warning("from a library: %s", secret)
    try:
        raise RuntimeError(f"in an exception {secret}")
    except RuntimeError:
        log.exception("failed")
    assert "QQ" not in written()
    assert "Q@Q" not in written()


@pytest.mark.parametrize("field", ["password", "token", "secret", "Authorization", "X-API-Key"])
def test_fields_that_hold_secrets_are_masked_whatever_the_value_looks_like(
    field: str, written: Callable[[], str]
) -> None:
    structlog.get_logger("test").info("seen", **{field: "hunter2"}, headers={field: "hunter2"})
    assert "hunter2" not in written()


@given(st.text())
def test_a_value_never_starts_a_line_of_its_own_or_moves_a_terminal(text: str) -> None:
    assert len(escape(text).splitlines()) <= 1
    assert "\x1b" not in escape(text)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_value_can_not_fake_a_line(log_format: Any, written: Callable[[], str]) -> None:
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    structlog.get_logger("test").info("line", path="/a\r\n2026 [error] faked\x1b[2J")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_json_lines_begin_with_time_level_and_event(written: Callable[[], str]) -> None:
    structlog.get_logger("test").info("started", port=8000)
    assert list(json.loads(written()))[:3] == ["time", "level", "event"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@ss/w:rd@host/db", "postgresql://u:***@host/db"),
        ("postgresql://host/db?password=p&x=1", "postgresql://host/db?password=***&x=1"),
        ("redis://:p@host:1/0", "redis://:***@host:1/0"),
        ("redis://host:1/0", "redis://host:1/0"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, expected: str) -> None:
    assert redact_url(url) == expected


def test_the_hint_of_a_key_may_be_shown() -> None:
    assert redact("key sk_live_Ab…9Zk2") == "key sk_live_Ab…9Zk2"


def test_a_scrape_shows_what_was_counted() -> None:
    metrics = Metrics()
    metrics.show_data_plane()
    metrics.checks["rate_limited"] += 3
    metrics.requests["GET", "/v1/keys/{key_id}", 404] += 2
    metrics.show_answers()
    metrics.observe_answers({201: 2, 204: 1}, [20_000, 7])
    metrics.decision_seconds.observe_many(0.0003, 4)
    metrics.gauge("apishield_snapshot_age_seconds", lambda: 1.5)
    metrics.counter("apishield_store_failures_total", lambda: 7)
    metrics.gauge("apishield_loop_failing", lambda: {"usage": 1, "snapshot": 0})
    content, media_type = metrics.render()
    samples = read_samples(content)
    assert media_type.startswith("text/plain")
    assert samples["apishield_checks_total", "rate_limited"] == 3
    assert samples["apishield_http_requests_total", "/v1/keys/{key_id}", "404", "GET"] == 2
    assert samples["apishield_results_total", "2xx"] == 3
    assert samples["apishield_result_seconds_bucket", "1e-05"] == 1
    assert samples["apishield_decision_seconds_bucket", "0.00025"] == 0
    assert samples["apishield_decision_seconds_bucket", "0.0005"] == 4
    assert samples["apishield_snapshot_age_seconds",] == 1.5
    assert samples["apishield_store_failures_total",] == 7
    assert samples["apishield_loop_failing", "usage"] == 1
    assert samples["process_open_fds", "here"] > 0


def test_a_metric_that_the_catalogue_does_not_know_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Metrics().gauge("apishield_invented", lambda: 1)


def test_names_of_limits_are_bounded_in_number_and_length_and_hold_no_credential() -> None:
    refusals = LimitRefusals()
    refusals.add(CREDENTIALS[0], "fixed_window")
    refusals.add("long" * 100, "fixed_window")
    for number in range(2 * MAX_LIMITS):
        refusals.add(f"limit {number}", "fixed_window")
        refusals.add("limit 0", "fixed_window")
    assert len(refusals.counts) == MAX_LIMITS + 1
    assert sum(refusals.counts.values()) == 2 + 4 * MAX_LIMITS
    assert refusals.counts["limit 0", "fixed_window"] == 2 * MAX_LIMITS + 1
    assert refusals.counts["(other)", "fixed_window"] == MAX_LIMITS + 2
    assert max(len(name) for name, _ in refusals.counts) <= 64
    assert not any(SECRET in name for name, _ in refusals.counts)


@given(st.lists(st.floats(0, 10)))
def test_each_measurement_falls_into_the_first_bucket_that_holds_it(measured: list[float]) -> None:
    latency = Latency()
    for seconds in measured:
        latency.observe(seconds)
    for (_, count), bound in zip(latency.buckets(), (*LATENCY_BUCKETS, float("inf")), strict=True):
        assert count == sum(seconds <= bound for seconds in measured)


def test_the_page_of_the_metrics_is_what_the_catalogue_says() -> None:
    assert PAGE.read_text() == page(), "docs/reference/metrics.md is old: run make docs"


def test_every_metric_says_what_it_is_and_is_named_as_prometheus_wants() -> None:
    for definition in DEFINITIONS.values():
        assert definition.help.endswith("."), definition.name
        assert (definition.kind is Kind.COUNTER) == definition.name.endswith("_total"), definition.name
        assert not {"tenant", "key", "address", "customer"} & set(definition.labels)
