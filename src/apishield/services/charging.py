"""What a check is charged, and what is kept of it, so that it can be settled or found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from apishield.core.counter_keys import once_key, record_key
from apishield.core.decision import CheckRequest
from apishield.core.model import MAX_UNITS, SECOND_US, Concurrency, Once
from apishield.core.ports import Hold
from apishield.services.asked import Asked

_TOO_MUCH: Final = MAX_UNITS + 1

_encode_question = msgspec.json.Encoder(order="deterministic").encode


def costs(asked: Asked) -> Sequence[int]:
    """What each counter is charged: its policy's cost times the check's (else the endpoint's, else 1), in its unit; bounded."""
    cost: int | Mapping[str, int] | None = asked.request.cost
    if cost is None:
        cost = 1 if asked.endpoint is None else asked.endpoint.cost
    if cost == 1 and asked.unit_costs is not None:
        return asked.unit_costs
    if isinstance(cost, int):
        return [min(cost * meter.cost, _TOO_MUCH) if meter.unit == "requests" else 0 for meter in asked.meters]
    return [min(cost.get(meter.unit, 0) * meter.cost, _TOO_MUCH) for meter in asked.meters]


def hold(asked: Asked) -> Hold:
    """What is kept of the check, so that its slots are freed or its estimate settled, on whatever node."""
    request = asked.request
    seconds = request.settle_within_seconds if request.reserve else 1
    for meter in asked.meters:
        if isinstance(meter.limit.algorithm, Concurrency):
            seconds = max(seconds, -(-meter.limit.algorithm.timeout_us // SECOND_US))
    key = record_key(asked.view.tenant.id, asked.check_id)
    return Hold(key, seconds, tuple(meter.cost for meter in asked.meters), request.reserve)


def once(asked: Asked, check_id: str) -> Once:
    """The name under which the caller may ask this very question again."""
    return Once(once_key(asked.view.tenant.id, check_id), _digest(asked.request))


def _digest(request: CheckRequest) -> str:
    """Tells one question from another, whatever their ``check_id``; nothing of it can be read from this."""
    question = _encode_question(msgspec.structs.replace(request, check_id=None))
    return blake2b(question, digest_size=16).hexdigest()
