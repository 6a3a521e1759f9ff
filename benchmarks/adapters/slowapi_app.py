"""Endpoints behind ``slowapi``, to be scored over HTTP: ``PORT=9001 python -m benchmarks.adapters.slowapi_app``.

``/fixed``, ``/moving`` and ``/counter`` admit 10 requests in 2 seconds to each ``X-API-Key``, by the strategies of ``limits``.
"""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from starlette.responses import PlainTextResponse, Response

STRATEGIES = {"fixed": "fixed-window", "moving": "moving-window", "counter": "sliding-window-counter"}

app = FastAPI()


def _mount(path: str, strategy: str) -> None:
    limiter = Limiter(key_func=_api_key, strategy=strategy, headers_enabled=True)
    inner = FastAPI()
    inner.state.limiter = limiter
    inner.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

    async def answer(request: Request) -> Response:
        return PlainTextResponse("hello")

    inner.get("/")(limiter.limit("10 per 2 seconds")(answer))
    app.mount(path, inner)


def _api_key(request: Request) -> str:
    return request.headers["X-API-Key"]


for _name, _strategy in STRATEGIES.items():
    _mount(f"/{_name}", _strategy)


@app.get("/livez")
async def livez() -> str:
    return "ok"


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
