"""``APIShield`` and ``AsyncAPIShield``: one list of calls, sent over a blocking or an asynchronous transport.

Owns: sending, waiting before another try, closing. Does not own: requests and answers (``wire``), the calls (``calls``).

A transport of httpx2 is the seam: it pools connections and speaks TLS, and tests hand in their own. Proxies of the
environment are not used, since requests carry credentials; who needs one passes ``httpx2.HTTPTransport(proxy=…)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import update_wrapper
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import anyio
import httpx2

from apishield.client import calls
from apishield.client.calls import Call
from apishield.client.wire import Wire, transport_options
from apishield.errors import APIShieldError

P = ParamSpec("P")
T = TypeVar("T")


class _Sent(Generic[P, T]):
    """A method that builds a call and sends it by its client: returns the answer, or a coroutine of it."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, client: APIShield, owner: type[Any]) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncAPIShield, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type[Any]) -> Any:
        if client is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self._build(*args, **kwargs))

        return update_wrapper(method, self._build)


class _Calls:
    """Everything that the service can be asked."""

    check = _Sent(calls.check)
    check_batch = _Sent(calls.check_batch)
    report = _Sent(calls.report)
    release = _Sent(calls.release)

    create_tenant = _Sent(calls.create_tenant)
    get_tenant = _Sent(calls.get_tenant)

    create_key = _Sent(calls.create_key)
    get_key = _Sent(calls.get_key)
    list_keys = _Sent(calls.list_keys)
    update_key = _Sent(calls.update_key)
    rotate_key = _Sent(calls.rotate_key)
    revoke_key = _Sent(calls.revoke_key)
    get_key_usage = _Sent(calls.get_key_usage)

    create_customer = _Sent(calls.create_customer)
    get_customer = _Sent(calls.get_customer)
    list_customers = _Sent(calls.list_customers)
    update_customer = _Sent(calls.update_customer)
    delete_customer = _Sent(calls.delete_customer)

    create_policy = _Sent(calls.create_policy)
    get_policy = _Sent(calls.get_policy)
    list_policies = _Sent(calls.list_policies)
    update_policy = _Sent(calls.update_policy)
    delete_policy = _Sent(calls.delete_policy)
    get_policy_shadow = _Sent(calls.get_policy_shadow)

    create_endpoint = _Sent(calls.create_endpoint)
    get_endpoint = _Sent(calls.get_endpoint)
    list_endpoints = _Sent(calls.list_endpoints)
    import_endpoints = _Sent(calls.import_endpoints)
    delete_endpoint = _Sent(calls.delete_endpoint)

    block = _Sent(calls.block)
    list_blocks = _Sent(calls.list_blocks)
    unblock = _Sent(calls.unblock)

    replay_policy = _Sent(calls.replay_policy)
    get_replay = _Sent(calls.get_replay)


class APIShield(_Calls):
    """The service, for code that blocks. Safe to share between threads; close it, or use it in a ``with`` block.

    ``api_key`` is a service key (for ``check`` and ``report``), ``token`` a tenant's or operator's token (for all the rest;
    an operator's needs ``tenant_id``). Each phase of a request may take ``timeout_seconds``. What fails without harm is
    tried ``retries`` times more: reads, reports, and changes that the service knows again by their ``Idempotency-Key``.

    Raises ``APIError`` and ``ServiceUnavailableError`` of ``apishield.client.errors``. A denial of a check is not an error.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        tenant_id: str | None = None,
        timeout_seconds: float = 5.0,
        retries: int = 2,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._wire = Wire(
            url, api_key=api_key, token=token, tenant_id=tenant_id, timeout_seconds=timeout_seconds, retries=retries
        )
        self._transport = transport or httpx2.HTTPTransport(**transport_options(self._wire.url))

    def send(self, call: Call[T]) -> T:
        """Sends a call of ``apishield.client.calls`` and returns its answer."""
        attempt = 0
        while True:
            try:
                return self._send_once(call)
            except APIShieldError as error:
                pause_seconds = self._wire.pause_before_retry(call, error, attempt)
                if pause_seconds is None:
                    raise
            attempt += 1
            time.sleep(pause_seconds)

    def _send_once(self, call: Call[T]) -> T:
        try:
            response = self._transport.handle_request(self._wire.request(call))
            try:
                response.read()
            finally:
                response.close()
        except httpx2.TransportError as error:
            raise self._wire.unavailable(error) from error
        return self._wire.answer(call, response)

    def close(self) -> None:
        """Closes the connections; the client can't be used afterwards."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """Without the credentials, so that they reach no log."""
        return f"APIShield({self._wire.url!r})"


class AsyncAPIShield(_Calls):
    """The service, for asynchronous code: ``APIShield``, whose methods are awaited. For one event loop; close it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        tenant_id: str | None = None,
        timeout_seconds: float = 5.0,
        retries: int = 2,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._wire = Wire(
            url, api_key=api_key, token=token, tenant_id=tenant_id, timeout_seconds=timeout_seconds, retries=retries
        )
        self._transport = transport or httpx2.AsyncHTTPTransport(**transport_options(self._wire.url))

    async def send(self, call: Call[T]) -> T:
        """Sends a call of ``apishield.client.calls`` and returns its answer."""
        attempt = 0
        while True:
            try:
                return await self._send_once(call)
            except APIShieldError as error:
                pause_seconds = self._wire.pause_before_retry(call, error, attempt)
                if pause_seconds is None:
                    raise
            attempt += 1
            await anyio.sleep(pause_seconds)

    async def _send_once(self, call: Call[T]) -> T:
        try:
            response = await self._transport.handle_async_request(self._wire.request(call))
            try:
                await response.aread()
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            raise self._wire.unavailable(error) from error
        return self._wire.answer(call, response)

    async def aclose(self) -> None:
        """Closes the connections; the client can't be used afterwards."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        """Without the credentials, so that they reach no log."""
        return f"AsyncAPIShield({self._wire.url!r})"
