"""The figures of the README and the documentation, and how to get them again. See ``benchmarks/README.md``."""
