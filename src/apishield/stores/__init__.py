"""Where state lies: counters in memory or Redis, everything else in a database. Implements the ports of ``core``."""
