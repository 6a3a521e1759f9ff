"""The whole application: the data plane in front, the control plane behind."""

from __future__ import annotations

from apishield.api.app import create_app
from apishield.api.dataplane.app import DataPlane
from apishield.api.dataplane.document import document
from apishield.bootstrap import Runtime


def create_asgi(runtime: Runtime) -> DataPlane:
    """The application of ``runtime``, which whoever serves it starts and closes."""
    return DataPlane(runtime, create_app(runtime, document()))
