"""Counters in Redis: the Lua twins of the algorithms, and the connection that carries a turn's checks in one call.

Owns: the script, its arguments and answers, which server a key lies on, time-outs.
Does not own: how limits decide (``core.rate_limiter``; the script takes the same steps), what to do without Redis
(``stores.failover``).
"""

from apishield.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
