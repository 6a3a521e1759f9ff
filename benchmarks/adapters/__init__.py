"""Limiters on PyPI, and ours, as ``apishield conformance --adapter`` takes them."""
