"""Spans say which route and which intake, continue the caller's trace, and hold nothing that was sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from apishield.api.asgi import create_asgi
from apishield.bootstrap import build, prepare
from apishield.settings import Settings
from apishield.telemetry.tracing import ENDPOINTS, start_tracing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    """What a collector on this machine receives, and the environment names it."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield received
        server.shutdown()


async def test_requests_and_intakes_make_spans_that_hold_no_secret(
    tmp_path: Path, collected: list[ExportTraceServiceRequest]
) -> None:
    settings = Settings(data_dir=tmp_path, secret="1:" + "c2VjcmV0" * 8, ledger="inline")
    token = (await prepare(settings)).operator_token
    runtime = await build(settings)
    await runtime.start()
    transport = httpx2.ASGITransport(app=create_asgi(runtime))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
        made = await client.post("/v1/tenants", json={"name": "Private Name", "plan": "starter"}, headers=headers)
        assert made.status_code == 201
        service_key = made.json()["api_key"]["key"]
        await client.get(
            "/v1/keys/key_unknown?q=private-query", headers={"Authorization": f"Bearer {made.json()['token']}"}
        )
        checked = await client.post("/v1/check", json={}, headers={"Authorization": f"Bearer {service_key}"})
        assert checked.json()["allowed"]
    await runtime.close()

    spans = _spans(collected)
    by_name = {span.name: span for span in spans}
    assert by_name["POST /v1/tenants"].trace_id.hex() == TRACE_ID
    attributes = {item.key: item.value for item in by_name["GET /v1/keys/{key_id}"].attributes}
    assert attributes["http.response.status_code"].int_value == 422
    assert attributes["apishield.request_id"].string_value.startswith("req_")
    intake = {item.key: item.value for item in by_name["ledger.apply"].attributes}
    assert intake["apishield.stream"].string_value.startswith("spool:")
    assert not any("/v1/check" in name for name in by_name), "checks make no spans"
    sent = b"".join(request.SerializeToString() for request in collected)
    for secret in (token, service_key, "Private Name", "private-query", "key_unknown"):
        assert str(secret).encode() not in sent
    resource = {item.key: item.value for item in collected[0].resource_spans[0].resource.attributes}
    assert resource["service.name"].string_value == "apishield"


def test_without_a_collector_there_is_no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert start_tracing() is None


def _spans(collected: list[ExportTraceServiceRequest]) -> list[Span]:
    found: list[Any] = []
    for request in collected:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                found += scope.spans
    return found
