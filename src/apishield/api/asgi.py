"""The whole application: the data plane in front, the control plane behind, and the life of the process around both."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from apishield.api.app import create_app
from apishield.api.dataplane.app import DataPlane
from apishield.bootstrap import Runtime


class Application:
    """One node as an ASGI application. Its lifespan starts and closes ``runtime``."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._app: ASGIApp = DataPlane(runtime, create_app(runtime))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.runtime.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.runtime.close()
        await send({"type": "lifespan.shutdown.complete"})


def create_asgi(runtime: Runtime) -> Application:
    """The application of ``runtime``, which is started and closed by the server's lifespan."""
    return Application(runtime)
