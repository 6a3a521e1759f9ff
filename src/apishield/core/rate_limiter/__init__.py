"""The limit algorithms, and how many of them make one verdict. Pure: now is an argument.

Owns: what a counter remembers, what fits, what is charged, refunded and reported; limits written as strings.
Does not own: where states lie and who takes turns on them (``stores``), which limits apply to a check (``services``).

Each algorithm is a module with a ``State`` of the same shape (``verdict.State``). The Lua twins beside the Redis store take the
same steps; ``tests/conformance`` holds the two equal, step by step.
"""
