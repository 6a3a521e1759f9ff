"""One suite over every store of counters, held to an oracle that remembers every charge it ever saw."""
