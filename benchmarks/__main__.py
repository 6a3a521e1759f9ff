"""``python -m benchmarks`` (``make bench``): every benchmark, one after the other."""

from __future__ import annotations

from benchmarks import library, service

if __name__ == "__main__":
    library.main([])
    service.main()
