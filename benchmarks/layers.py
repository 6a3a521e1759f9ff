"""What each layer of a check costs: from the bytes of a request to the bytes of its answer, on memory, without HTTP.

python -m benchmarks.layers [--rounds 7] [--calls 5000]

Each layer is called by itself on what it is given in a real check, again and again, so with warm caches; *the rest* is what
the whole takes beyond their sum. Every 64th check ends a turn, whose events are then written to the spool with one write. Last
stands a check of a turn in which several are decided together, each step for all of them, as the service does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from apishield.api.dataplane.answers import Question
from apishield.api.dataplane.bodies import decode
from apishield.api.dataplane.headers import read as read_headers
from apishield.clock import system_clock
from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest
from apishield.core.model import SECOND_US, Limit, Quota, SlidingWindow, TokenBucket, Verdict
from apishield.core.rendering import render
from apishield.services.asked import Asked
from benchmarks.node import BenchNode, bench_node
from benchmarks.rounds import Contender, nanoseconds_a_call
from benchmarks.servers import UNLIMITED, question
from benchmarks.table import print_table

MINUTE = Limit(id="", name="minute", algorithm=SlidingWindow(UNLIMITED, 60 * SECOND_US))
BURST = Limit(id="", name="burst", algorithm=TokenBucket(UNLIMITED, SECOND_US, UNLIMITED))
MONTH = Limit(id="", name="monthly", algorithm=Quota(UNLIMITED))
SPENT = Limit(id="", name="default", algorithm=SlidingWindow(1, 3600 * SECOND_US))
KEYS: dict[str, tuple[tuple[Limit, ...], tuple[Limit, ...]]] = {
    "one limit": ((MINUTE,), ()),
    "two limits and a quota": ((MINUTE, BURST), (MONTH,)),
    "refused": ((SPENT,), ()),
}
WHOLE = "the whole"
REST = "the rest: between the layers"
A_TURN = 32
TOGETHER = f"a check of {A_TURN} that are decided together"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What each layer of a check costs.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each layer; the median counts (7)")
    parser.add_argument("--calls", type=int, default=5000, help="calls a round (5000)")
    options = parser.parse_args(arguments)
    asyncio.run(_run(options.rounds, options.calls))


async def _run(rounds: int, calls: int) -> None:
    prices: dict[str, dict[str, float]] = {}
    async with bench_node(system_clock) as node:
        for name, (limits, quotas) in KEYS.items():
            secret = await node.key(limits, quotas)
            await node.warm_up(json.dumps(question(secret)).encode())
            layers = await _layers(node, secret)
            contenders = {layer: Contender(call, [()] * calls) for layer, call in layers.items()}
            contenders[TOGETHER] = Contender(_together(node, secret), [()] * (calls // A_TURN))
            spent = nanoseconds_a_call(contenders, rounds)
            together = spent.pop(TOGETHER) / A_TURN
            spent[REST] = 2 * spent[WHOLE] - sum(spent.values())
            spent[TOGETHER] = together
            prices[name] = spent
    rows = []
    last = (WHOLE, TOGETHER)
    for layer in [*(layer for layer in prices["one limit"] if layer not in last), *last]:
        cells = [f"{prices[name][layer] / 1000:.2f}" for name in KEYS]
        share = prices["one limit"][layer] / prices["one limit"][WHOLE]
        rows.append([layer, *cells, f"{share:.0%}"])
    print_table(
        "The layers of a check on memory, without HTTP, µs of processor time", ["", *KEYS, "share, one limit"], rows
    )


def _together(node: BenchNode, secret: str) -> Callable[[], Any]:
    """Has a turn of checks answered."""
    plane, body, write_down = node.data_plane, json.dumps(question(secret)).encode(), node.runtime.events.flush
    ask = plane.direct[b"POST", b"/v1/check"]

    def turn() -> None:
        questions = [asked for asked in [ask(node.headers, body) for _ in range(A_TURN)] if isinstance(asked, Question)]
        assert len(plane.answer_all(questions)) == A_TURN
        write_down()

    return turn


async def _layers(node: BenchNode, secret: str) -> dict[str, Callable[[], Any]]:
    runtime, body = node.runtime, json.dumps(question(secret)).encode()
    engine, headers = runtime.engine, node.headers
    screening = engine._screening
    view = runtime.snapshot.tenant(node.tenant_id)
    assert view is not None
    request = msgspec.json.decode(body, type=CheckRequest)
    identified = screening.identify(view, secret, system_clock())
    assert identified is not None
    entry = identified[0]
    assert entry is not None
    found = engine.check(view, request)
    decided = found if isinstance(found, Decided) else await found
    asked = runtime.store.decide(entry.limits.counters, entry.limits.unit_costs)
    verdict = asked if isinstance(asked, Verdict) else await asked
    decoder, data_plane = msgspec.json.Decoder(CheckRequest), node.data_plane
    ids, recorder, meters = engine._ids, runtime.recorder, entry.limits.meters
    headers_read = read_headers(headers)

    def parse() -> object:
        data_plane._remembered(read_headers(headers), body)
        return decode(decoder, body)

    def steps() -> object:
        return screening.screen_known(view, request, identified, verdict.now_us)

    told = Asked(view, request, entry, method=request.method, path=request.path)

    write_down = node.turns()

    def event() -> None:
        recorder.record(told, decided, verdict.now_us)
        write_down()

    def whole() -> None:
        node.ask(body)
        write_down()

    def answer() -> object:
        return data_plane.told(decided, headers_read, 0.0)

    return {
        "parse: headers, who asks, JSON": parse,
        "key: hash, look-up": lambda: screening.identify(view, secret, verdict.now_us),
        "steps: address, path, blocks, scopes, policies": steps,
        "limits: the store's verdict": lambda: runtime.store.decide(entry.limits.counters, entry.limits.unit_costs),
        "render: which limits, in what order": lambda: render(meters, verdict),
        "id of the decision": lambda: ids.make(node.tenant_id, verdict.now_us),
        "event: usage, metrics, spool": event,
        "answer: JSON, headers, request id": answer,
        WHOLE: whole,
    }


if __name__ == "__main__":
    main()
