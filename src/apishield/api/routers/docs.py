"""The documentation, which needs no other site: Swagger UI comes from an installed package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import Request, Response
from starlette.responses import JSONResponse

from apishield.api.permissions import Permission, permit
from apishield.api.route import control_router
from apishield.errors import ProblemError

router = control_router("Service")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>APIShield</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; the document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null
});
"""
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/openapi.json", include_in_schema=False)
@permit(Permission.PUBLIC)
async def get_openapi_document(request: Request) -> JSONResponse:
    """The OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return JSONResponse(document)


@router.get("/docs", include_in_schema=False)
@permit(Permission.PUBLIC)
async def get_docs() -> Response:
    """The documentation, to read and to try."""
    return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/{name}", include_in_schema=False)
@permit(Permission.PUBLIC)
async def get_docs_asset(name: str, request: Request) -> Response:
    """A part of the documentation's page."""
    if name == "start.js":
        return Response(_START, media_type="text/javascript")
    if name not in ASSETS:
        raise ProblemError("not_found", f"There is no {request.url.path}. The documentation is at /docs.")
    return Response(_asset(name), media_type=ASSETS[name], headers={"Cache-Control": "public, max-age=3600"})


@cache
def _asset(name: str) -> bytes:
    return (files("fastapi_swagger") / "resources" / name).read_bytes()
