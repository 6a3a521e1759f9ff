"""What it costs the data plane to write its events down, and a worker to read them: ``python -m benchmarks.spool``."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from apishield.core.events import DecisionEvent, Event, ResultEvent
from apishield.stores.spool import SpoolReader, SpoolWriter

SPOOL = 1
EVENTS_A_TURN = (1, 4, 16, 64, 1000)


def _clock() -> int:
    return time.time_ns() // 1000


def _decisions(number: int, refused_of_ten: int = 1) -> list[Event]:
    """Decisions as the engine makes them: 2,000 keys of 50 tenants, 60 endpoints, one in ten refused."""
    now_us = _clock()
    return [
        DecisionEvent(
            n, now_us + n, f"ten_{n % 50:026d}", "rate_limited" if n % 10 < refused_of_ten else "ok", 16,
            f"key_{n % 2000:026d}", None, "GET", f"/v1/orders/{n}", f"/v1/resource-{n % 60}/{{id}}", f"203.0.113.{n % 250}",
            "DE", 1, "python-requests/2.32.3", None, "",
        )
        for n in range(number)
    ]  # fmt: skip


def _results(number: int) -> list[Event]:
    now_us = _clock()
    return [
        ResultEvent(SPOOL, n, now_us // 1000, f"ten_{n % 50:026d}", now_us, 200, 1500 + n, 512) for n in range(number)
    ]


def _write(root: Path, events: list[Event], turn: int) -> tuple[float, SpoolWriter]:
    writer = SpoolWriter(root, SPOOL, _clock, max_bytes=8 * 1024**3)
    append, flush = writer.append, writer.flush
    started = time.perf_counter()
    for first in range(0, len(events), turn):
        for event in events[first : first + turn]:
            append(event)
        flush()
    return time.perf_counter() - started, writer


def _read(root: Path) -> tuple[float, int]:
    reader = SpoolReader(root, SPOOL)
    started, position, events = time.perf_counter(), 0, 0
    while True:
        part, position = reader.read(position)
        if not part.frames:
            return time.perf_counter() - started, events
        events += sum(len(frame.events()) for frame in part.frames)


def _line(name: str, turn: int, events: list[Event], directory: Path) -> None:
    used = read = 1e9
    size = stored = 0
    for _ in range(3):
        root = directory / "spool"
        seconds, writer = _write(root, events, turn)
        writer.close()
        used, size, stored = min(used, seconds), writer.stats.bytes, writer.stats.events - writer.stats.flood_events
        seconds, found = _read(root)
        read = min(read, seconds / found)
        shutil.rmtree(root)
    each = used / len(events) * 1e6
    print(f"{name:<34} {turn:>6} {each:>9.2f} {1 / (each / 1e6):>12,.0f} {size / stored:>12.0f} {read * 1e6:>10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--directory", type=Path, help="where to write (default: the temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        head = ("events", "a turn", "write µs", "events/s", "bytes/event", "read µs")
        print(f"{head[0]:<34} {head[1]:>6} {head[2]:>9} {head[3]:>12} {head[4]:>12} {head[5]:>10}")
        for turn in EVENTS_A_TURN:
            _line("decisions, 10 % refused", turn, _decisions(options.events), Path(directory))
        _line("results", 64, _results(options.events), Path(directory))
        _line("a flood of refusals (mostly counted)", 64, _decisions(options.events, 10), Path(directory))


if __name__ == "__main__":
    main()
