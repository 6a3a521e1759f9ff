"""What the service says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apishield.api.schemas.common import Output, example


class LiveOut(Output):
    """The process answers."""

    model_config = example({"status": "ok"})

    status: Literal["ok"]


class ReadyOut(Output):
    """Whether the node should get traffic."""

    model_config = example({"status": "ready", "reasons": [], "warnings": []})

    status: Literal["ready", "not_ready"]
    reasons: list[str] | None = Field(description="Why not; `null` for whoever may not see it.")
    warnings: list[str] | None = Field(description="What is wrong and yet no reason to send traffic elsewhere.")


class VersionOut(Output):
    """What runs here."""

    model_config = example({"version": "0.1.0", "python": "3.11.2"})

    version: str
    python: str
