"""Django: ``"apishield.integrations.django.RateLimitMiddleware"`` first in ``MIDDLEWARE``, the options in ``APISHIELD``.

::

    APISHIELD = {"apishield_url": "http://localhost:8000", "api_key": "sk_live_...", "trusted_proxies": ["10.0.0.0/8"]}

Works under WSGI and ASGI. The decision is ``request.apishield``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import wraps
from time import perf_counter
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from apishield.core.decision import Decision
from apishield.errors import ConfigurationError
from apishield.integrations.answers import CLIENT_CLOSED_REQUEST, added_headers, refusal
from apishield.integrations.blocking import BlockingProtection
from apishield.integrations.callers import Incoming
from apishield.integrations.protection import RefusedError
from apishield.integrations.scopes import check_scopes

View = Callable[..., Any]
GetResponse = Callable[[HttpRequest], Any]


class RateLimitMiddleware:
    """Wraps Django's handlers; asynchronous ones are never blocked."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        options = getattr(settings, "APISHIELD", None)
        if not isinstance(options, dict):
            raise ConfigurationError(
                "settings.APISHIELD is missing; give the options of RateLimitMiddleware as a dict."
            )
        self._get_response = get_response
        self.protection = BlockingProtection(**options)
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serves one request."""
        if self._asynchronous:
            return self._serve_asynchronously(request)
        if self.protection.protection.exempts(request.path_info):
            response: HttpResponseBase = self._get_response(request)
            return response
        incoming = self._read(request)
        decision = self.protection.decide(incoming, request)
        _attach(request, incoming, decision)
        if not decision.allowed:
            return _answer(decision, incoming)
        exchange = _Exchange(decision, self.protection.report)
        try:
            response = self._get_response(request)
        except BaseException:  # Django makes answers of most
            exchange.end(500)
            raise
        exchange.follow(response)
        return _with_ours(response, decision)

    async def _serve_asynchronously(self, request: HttpRequest) -> HttpResponseBase:
        protection = self.protection.protection
        if protection.exempts(request.path_info):
            response: HttpResponseBase = await self._get_response(request)
            return response
        incoming = self._read(request)
        decision = await protection.decide(incoming, request)
        _attach(request, incoming, decision)
        if not decision.allowed:
            return _answer(decision, incoming)
        loop = asyncio.get_running_loop()
        # Django closes responses in a thread.
        exchange = _Exchange(decision, lambda *report: loop.call_soon_threadsafe(protection.report, *report))
        try:
            response = await self._get_response(request)
        except asyncio.CancelledError:
            exchange.end(CLIENT_CLOSED_REQUEST)
            raise
        except BaseException:
            exchange.end(500)
            raise
        exchange.follow(response)
        return _with_ours(response, decision)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answers a view that refused (Django calls it for every exception of a view)."""
        if not isinstance(error, RefusedError):
            return None
        incoming: Incoming = request.apishield_incoming
        return _answer(error.decision, incoming)

    def _read(self, request: HttpRequest) -> Incoming:
        meta = request.META
        return self.protection.protection.callers.read(
            request.method or "GET",
            request.path,
            lambda name: meta.get(f"HTTP_{name.upper().replace('-', '_')}"),
            meta.get("REMOTE_ADDR") or None,
        )


def require_scopes(*scopes: str) -> Callable[[View], View]:
    """Refuses callers of a view whose key lacks one of ``scopes``: 401 without a key, 403 with one."""

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            check_scopes(getattr(request, "apishield", None), scopes)
            return view(request, *args, **kwargs)

        return markcoroutinefunction(checked) if iscoroutinefunction(view) else checked

    return decorate


def _attach(request: HttpRequest, incoming: Incoming, decision: Decision) -> None:
    request.apishield = decision
    request.apishield_incoming = incoming


def _answer(decision: Decision, incoming: Incoming) -> HttpResponse:
    status, headers, body = refusal(decision, incoming)
    response = HttpResponse(body, status=status)
    for name, value in headers:
        response[name] = value
    return response


def _with_ours(response: HttpResponseBase, decision: Decision) -> HttpResponseBase:
    for name, value in added_headers(decision, [name.lower() for name in response.headers]):
        response[name] = value
    return response


class _Exchange:
    """One response on its way out: reported when it is there or, where it is streamed, when it has ended."""

    def __init__(self, decision: Decision, report: Callable[[Decision, int, float, int], object]) -> None:
        self._decision, self._report = decision, report
        self._started = perf_counter()
        self._size_bytes = 0
        self._ended = False

    def end(self, status: int) -> None:
        """Reports, once."""
        if not self._ended:
            self._ended = True
            self._report(self._decision, status, perf_counter() - self._started, self._size_bytes)

    def follow(self, response: HttpResponseBase) -> None:
        """Reports ``response``; where it is streamed its parts are counted, and its end is when the server closes it."""
        if not response.streaming:
            self._size_bytes = len(getattr(response, "content", b""))
            self.end(response.status_code)
            return
        if getattr(response, "file_to_stream", None) is not None:
            # Its parts are left alone: the server may send it by a shorter way.
            length = response.headers.get("Content-Length", "")
            self._size_bytes = int(length) if length.isdecimal() else 0
        elif response.is_async:
            response.streaming_content = self._counted_asynchronously(response.streaming_content, response)
        else:
            response.streaming_content = self._counted(response.streaming_content, response)
        close = response.close

        def close_and_report() -> None:
            try:
                close()
            finally:
                self.end(response.status_code)

        response.close = close_and_report

    def _counted(self, parts: Iterable[bytes], response: HttpResponseBase) -> Iterator[bytes]:
        try:
            for part in parts:
                self._size_bytes += len(part)
                yield part
        except Exception:
            self._broke_off(response)
            raise

    async def _counted_asynchronously(
        self, parts: AsyncIterable[bytes], response: HttpResponseBase
    ) -> AsyncIterator[bytes]:
        try:
            async for part in parts:
                self._size_bytes += len(part)
                yield part
        except Exception:
            self._broke_off(response)
            raise

    def _broke_off(self, response: HttpResponseBase) -> None:
        # Not every server closes such a response. Before the first part the headers have not left: it becomes a 500.
        self.end(response.status_code if self._size_bytes else 500)
