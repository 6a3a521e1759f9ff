"""``python -m benchmarks`` (``make bench``): every benchmark, one after the other."""

from __future__ import annotations

from benchmarks import layers, library, library_redis, policies, service, subjects

if __name__ == "__main__":
    for benchmark in (library, library_redis, subjects, policies, layers, service):
        benchmark.main([])
