"""How exact is a limiter? Any limiter: this service, an HTTP endpoint behind another, or a Python object.

Owns: schedules of checks that are hard on limiters, an oracle that remembers every admission, the score.
Does not own: how limits decide (``core.rate_limiter``; it shares no code with them), the command line (``cli.conformance``).
"""
