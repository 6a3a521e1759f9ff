"""A line of an access log is read as a result, or skipped with a reason that can be counted; nothing else happens."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.client.models import Report
from apishield.integrations.access_log.lines import LONGEST_MS, MOST_BYTES, UnreadableLine, read_line
from apishield.services.reports import Report as TakenReport

DECISION = "dec_01k84edib9e008000100000001cgk2pu574e73g"


def line(**fields: object) -> bytes:
    return json.dumps({"decision": DECISION, "status": 200, "seconds": 0.017, "bytes": 512} | fields).encode()


def test_nginx_tells_seconds_and_envoy_milliseconds() -> None:
    by_nginx = b'{"decision": "%b", "status": 200, "seconds": 0.017, "bytes": 512}' % DECISION.encode()
    by_envoy = b'{"bytes":512,"decision":"%b","milliseconds":17,"status":200}\n' % DECISION.encode()
    expected = Report(decision_id=DECISION, status=200, latency_ms=17.0, bytes=512)
    assert read_line(by_nginx) == read_line(by_envoy) == expected


def test_numbers_may_stand_in_quotes_and_other_fields_beside_them() -> None:
    read = read_line(line(status="404", seconds="0.250", bytes="0", path="/orders", user_agent=None))
    assert read == Report(decision_id=DECISION, status=404, latency_ms=250.0, bytes=0)


@pytest.mark.parametrize("prefix", [b"<190>Nov 23 19:00:01 edge nginx: ", b"\0\0\0", b"\t"])
def test_what_a_syslog_daemon_or_a_hole_in_the_file_puts_before_it_is_skipped(prefix: bytes) -> None:
    assert read_line(prefix + line()) == read_line(line())


@pytest.mark.parametrize(
    "empty", [b"", b"\r", b" \t", b"\0\0", line(decision=""), line(decision="-"), line(decision=None)]
)
def test_requests_about_which_nobody_was_asked_are_no_results(empty: bytes) -> None:
    assert read_line(empty) is None


@pytest.mark.parametrize(
    "wrong",
    [
        b'127.0.0.1 - - "GET / HTTP/1.1" 200',
        line()[:-5],
        line() + line(),
        line(status=None),
        line(status=99),
        line(status=600),
        line(status="200x"),
        line(seconds=None),
        line(seconds=[1]),
        line(decision="forged"),
        line(decision="dec_" + "x" * 100),
        b'{"decision": "\xff"}',
        b"{}}",
    ],
)
def test_what_is_no_result_says_why_without_repeating_it(wrong: bytes) -> None:
    with pytest.raises(UnreadableLine) as caught:
        read_line(wrong)
    assert 0 < len(str(caught.value)) < 100


def test_a_client_that_went_away_before_the_answer_is_499_as_nginx_says() -> None:
    report = read_line(line(status=0))
    assert report is not None
    assert report.status == 499


def test_a_conversation_of_days_and_a_huge_answer_count_as_much_as_the_service_takes() -> None:
    report = read_line(line(seconds=1e9, bytes=2**60))
    assert report is not None
    assert (report.latency_ms, report.bytes) == (LONGEST_MS, MOST_BYTES)


numbers = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.booleans())


@given(status=numbers, seconds=numbers, milliseconds=numbers, size=numbers)
def test_the_service_can_use_whatever_is_read(
    status: object, seconds: object, milliseconds: object, size: object
) -> None:
    try:
        report = read_line(line(status=status, seconds=seconds, milliseconds=milliseconds, bytes=size))
    except UnreadableLine:
        return
    msgspec.json.decode(msgspec.json.encode(report), type=TakenReport)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    for attempt in (noise, b"{" + noise, line() + noise):
        try:
            read_line(attempt)
        except UnreadableLine:
            continue
