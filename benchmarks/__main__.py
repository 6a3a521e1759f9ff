"""``python -m benchmarks`` (``make bench``): every benchmark, one after the other."""

from __future__ import annotations

from benchmarks import library, library_redis, service

if __name__ == "__main__":
    library.main([])
    library_redis.main([])
    service.main([])
